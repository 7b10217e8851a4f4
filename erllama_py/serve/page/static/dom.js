// Elements out of data. Texts become text nodes and nothing else: what a model or a server says is never markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "rect", "polyline"]);

/** An element. `on…` are listeners, true and false say whether an attribute is there, all others are its text. */
export function h(tag, attributes = {}, ...children) {
  const node = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else attribute(node, name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Set an attribute if it is not so already; false and null take it away. */
export function attribute(node, name, value) {
  if (value === false || value === null || value === undefined) node.removeAttribute(name);
  else {
    const text = value === true ? "" : String(value);
    if (node.getAttribute(name) !== text) node.setAttribute(name, text);
  }
}

/** Set a text if it is another one: else a selection in it would be lost each second. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The element of an id, which is there. */
export const byId = (id) => document.getElementById(id);

const known = new WeakMap(); // a parent -> the views of its children, by key

/**
 * Have a parent show items, one child for each key. What is there stays where it is, with its focus and its selection;
 * `make(item)` gives a view `{node, update(item)}`, which is updated from then on.
 */
export function keyed(parent, items, keyOf, make) {
  const before = known.get(parent) ?? new Map();
  const now = new Map();
  let place = null; // the child after which the next one stands
  for (const item of items) {
    const key = keyOf(item);
    if (now.has(key)) continue; // the same twice is shown once
    const view = before.get(key) ?? make(item);
    view.update(item);
    now.set(key, view);
    before.delete(key);
    const next = place === null ? parent.firstChild : place.nextSibling;
    if (next !== view.node) move(parent, view.node, next, before);
    place = view.node;
  }
  for (const view of before.values()) view.node.remove();
  known.set(parent, now);
  return now;
}

// Moving an element takes its focus away: so where those in front of it are about to go, they go first.
function move(parent, node, next, leaving) {
  const gone = new Set([...leaving.values()].map((view) => view.node));
  while (next !== null && gone.has(next) && next !== node) {
    const following = next.nextSibling;
    next.remove();
    next = following;
  }
  if (next === node) return;
  const focused = node.contains(document.activeElement) ? document.activeElement : null;
  parent.insertBefore(node, next);
  focused?.focus({ preventScroll: true });
}
