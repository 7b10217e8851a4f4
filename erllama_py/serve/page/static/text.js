// What a model wrote, as blocks: paragraphs with their line breaks, and code between fences. Nothing else is read as
// markup, and all of it stays text.

import { h, keyed, setText } from "./dom.js";

const PIECE = 4000;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\n]*)$/;

/** A text as `{kind: "text" | "code", text, language}`; a fence that is not closed yet reaches to the end. */
export function blocks(text) {
  const found = [];
  let lines = [];
  let fence = null;
  let language = "";
  const close = (kind) => {
    const block = { kind, text: lines.join("\n"), language };
    if (kind === "code" || block.text.trim() !== "") found.push(kind === "text" ? trimmed(block) : block);
    lines = [];
  };
  for (const line of text.split("\n")) {
    const match = FENCE.exec(line);
    if (fence === null && match) {
      close("text");
      [, fence, language] = match;
    } else if (fence !== null && match && closes(match, fence)) {
      close("code");
      fence = null;
      language = "";
    } else {
      lines.push(line);
    }
  }
  close(fence === null ? "text" : "code");
  return found;
}

const closes = (match, fence) => match[1][0] === fence[0] && match[1].length >= fence.length && match[2] === "";
const trimmed = (block) => ({ ...block, language: "", text: block.text.replace(/^\n+|\n+$/g, "") });

/** Show a text; while it grows only its last block changes. */
export function showText(parent, text) {
  const items = blocks(text).map((block, index) => ({ ...block, key: `${index} ${block.kind}` }));
  keyed(parent, items, (item) => item.key, makeBlock);
}

/** A text in pieces of some thousand characters, each but the last with the end of its line left out. */
export function pieces(text, size = PIECE) {
  const found = [];
  let from = 0;
  for (let end; text.length - from > size && (end = text.indexOf("\n", from + size)) >= 0; from = end + 1) {
    found.push(text.slice(from, end));
  }
  return [...found, text.slice(from)];
}

// Each piece is an element of its own: a browser lays out an element anew, and as a whole, when its text grows.
function showPieces(parent, text) {
  const items = pieces(text).map((piece, index) => ({ piece, index }));
  keyed(parent, items, (item) => item.index, () => {
    const node = h("span", { class: "piece" });
    return { node, update: (item) => setText(node, item.piece) };
  });
}

function makeBlock(first) {
  if (first.kind === "text") {
    const node = h("p", { class: "prose", dir: "auto" });
    return { node, update: (block) => showPieces(node, block.text) };
  }
  const code = h("code");
  // Its own region scrolls, not the page; so it can be reached by keys too.
  const node = h("pre", { tabindex: "0", "aria-label": "Code" }, code);
  return {
    node,
    update(block) {
      if (block.language) node.dataset.language = block.language.trim();
      showPieces(code, block.text);
    },
  };
}
