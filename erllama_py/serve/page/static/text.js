// What a model wrote, as blocks: paragraphs with their line breaks, and code between fences. Nothing else is read as
// markup, and all of it stays text.

import { h, keyed, setText } from "./dom.js";

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

function makeBlock(first) {
  if (first.kind === "text") {
    const node = h("p", { class: "prose", dir: "auto" });
    return { node, update: (block) => setText(node, block.text) };
  }
  const code = h("code");
  // Its own region scrolls, not the page; so it can be reached by keys too.
  const node = h("pre", { tabindex: "0", "aria-label": "Code" }, code);
  return {
    node,
    update(block) {
      if (block.language) node.dataset.language = block.language.trim();
      setText(code, block.text);
    },
  };
}
