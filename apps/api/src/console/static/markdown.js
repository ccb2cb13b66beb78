// Markdown that grows: what stands on the page stays, and only what has changed is made anew. A model's or a document's
// text becomes elements of the kinds below alone, without images, scripts or styles: plain Markdown is built node by
// node, and what has HTML or anything else of its own in it goes through DOMPurify.
import { useLayoutEffect, useRef } from "preact/hooks";
import DOMPurify from "dompurify";
import { marked } from "marked";
import { html } from "./ui.js";

const TAGS = ["p", "br", "hr", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li", "a", "table",
  "thead", "tbody", "tr", "th", "td", "h1", "h2", "h3", "h4", "h5", "h6", "sup", "sub"];
const ATTRIBUTES = ["href", "title", "align", "start"];
const ADDRESS = /^(?:https?:|mailto:|#)/i;
DOMPurify.setConfig({
  RETURN_DOM_FRAGMENT: true, ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ATTRIBUTES, ALLOWED_URI_REGEXP: ADDRESS,
  // no addresses: the others are, if they are not the sanitizer's own
  ADD_URI_SAFE_ATTR: ["align", "start"],
});
DOMPurify.addHook("afterSanitizeAttributes", dress);

function dress(node) {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  // wide code and wide tables are scrolled, by the keyboard too
  if (node.tagName === "PRE" || node.tagName === "TABLE") node.setAttribute("tabindex", "0");
  // the page has headings of its own above these
  const level = /^H([1-4])$/.exec(node.tagName);
  if (level) node.setAttribute("aria-level", String(Math.max(3, Number(level[1]) + 2)));
}

let foreign = false;
marked.use({ gfm: true, breaks: true, renderer: { html() { foreign = true; return false; } } });

/** HTML of Markdown: `own` where the text has none itself. */
function render(tokens) {
  foreign = false;
  const html = marked.parser(tokens);
  return { html, own: !foreign };
}

const PARTS = /<\/?[a-z]+[1-6]?(?: [a-z]+="[^"<>\0]*")*>|[^<\0]+/g;
const TAG = /^<(\/?)([a-z]+[1-6]?)(.*)>$/;
const ATTRIBUTE = / ([a-z]+)="([^"]*)"/g;
const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'" };
const EMPTY = ["br", "hr"];
const DEEPEST = 200;
class Unknown extends Error {}

function decode(text) {
  return text.replace(/&(?:amp|lt|gt|quot|#39);|&/g, (entity) => {
    if (!ENTITIES[entity]) throw new Unknown();
    return ENTITIES[entity];
  });
}

function element(tag, attributes) {
  if (!TAGS.includes(tag)) throw new Unknown();
  const node = document.createElement(tag);
  for (const [, name, encoded] of attributes.matchAll(ATTRIBUTE)) {
    if (name === "class") continue;
    const value = decode(encoded).trim();
    if (!ATTRIBUTES.includes(name) || /[<>]/.test(value) || (name === "href" && !ADDRESS.test(value))) throw new Unknown();
    node.setAttribute(name, value);
  }
  dress(node);
  return node;
}

/** A block on the page. Written again, it keeps the nodes of what its HTML begins with as before. */
class Block {
  constructor() {
    this.root = document.createElement("div");
    // the HTML's tags and texts; behind each of them: the element that is open, its last node, how deep it is
    this.parts = [];
    this.ends = [];
  }

  write({ html, own }, joined) {
    this.root.className = `block${joined ? " joined" : ""}`;
    try {
      if (!own) throw new Unknown();
      this.build(html);
    } catch (problem) {
      if (!(problem instanceof Unknown)) throw problem;
      this.parts = [];
      this.ends = [];
      this.root.replaceChildren(DOMPurify.sanitize(html));
    }
  }

  build(html) {
    const parts = html.match(PARTS) || [];
    if (parts.reduce((sum, part) => sum + part.length, 0) !== html.length) throw new Unknown();
    let kept = 0;
    while (kept < parts.length && parts[kept] === this.parts[kept]) kept += 1;
    const isText = (part) => part && part[0] !== "<";
    if (isText(parts[kept]) && isText(this.parts[kept])) {
      this.ends[kept][1].data = decode(parts[kept]);
      kept += 1;
    }
    this.parts = parts;
    this.ends.length = kept;
    let [open, last, depth] = this.ends[kept - 1] || [this.root, null, 0];
    this.cut(open, last);
    for (const part of parts.slice(kept)) {
      const [, closing, tag, attributes] = TAG.exec(part) || [];
      if (closing) {
        if (open.localName !== tag || open === this.root) throw new Unknown();
        [open, last, depth] = [open.parentNode, open, depth - 1];
      } else {
        last = open.appendChild(tag ? element(tag, attributes) : document.createTextNode(decode(part)));
        if (tag && !EMPTY.includes(tag)) [open, last, depth] = [last, null, depth + 1];
      }
      // a browser's own parser has a bound, too
      if (depth > DEEPEST) throw new Unknown();
      this.ends.push([open, last, depth]);
    }
    if (open !== this.root) throw new Unknown();
  }

  /** Removes what stands behind the node `last` of `open`. */
  cut(open, last) {
    for (;;) {
      while (open.lastChild !== last) open.lastChild.remove();
      if (open === this.root) return;
      [open, last] = [open.parentNode, open];
    }
  }
}

const LONGEST_BLOCK = 4000;
const MOST_SHOWN = 200_000;
const SECTION = 8000;
const ITEM_BEGUN = /^ {0,3}\d{1,9}$/;
const FENCE = /^ {0,3}(`{3,}|~{3,})[^\n]*\n/;

/** Writes Markdown into `place`, piece by piece: `take` reads a piece, `show` puts what was read on the page. A block over LONGEST_BLOCK characters is cut; beyond MOST_SHOWN the oldest blocks leave the page. */
export class MarkdownWriter {
  constructor(place) {
    this.place = place;
    this.tail = "";
    this.sections = [];
    this.shown = 0;
    this.hidden = 0;
    this.joined = false;
    // blocks that are finished and not on the page yet, and what there is of the next one
    this.finished = [];
    this.growing = null;
    this.begin();
  }

  append(text) {
    this.take(text);
    this.show();
  }

  take(text) {
    const skipped = Math.max(0, text.length - MOST_SHOWN);
    this.hidden += skipped;
    let tokens = null;
    // a parser's work grows faster than what it is given at once
    for (let from = skipped; from < text.length; from += 2 * LONGEST_BLOCK) {
      this.tail += text.slice(from, from + 2 * LONGEST_BLOCK).replaceAll("\r\n", "\n");
      tokens = this.settle();
    }
    this.growing = render(tokens || marked.lexer(this.tail));
  }

  show() {
    for (const { rendered, length, joined } of this.finished) {
      this.block.write(rendered, joined);
      this.sections.at(-1).length += length;
      this.shown += length;
      this.begin();
    }
    this.finished = [];
    while (this.shown > MOST_SHOWN) {
      const oldest = this.sections.shift();
      oldest.place.remove();
      this.shown -= oldest.length;
      this.hidden += oldest.length;
    }
    if (this.growing) this.block.write(this.growing, this.joined);
  }

  /** Renders for good what can no longer change; returns the tokens of the tail where that is still the same. */
  settle() {
    const tokens = marked.lexer(this.tail);
    let growing = tokens.length - 1;
    const stands = () => { while (growing > 0 && tokens[growing].type === "space") growing -= 1; };
    stands();
    // a list goes on where the next number has come without its full stop
    if (growing > 0 && ITEM_BEGUN.test(tokens[growing].raw)) {
      const number = growing;
      growing -= 1;
      stands();
      if (tokens[growing].type !== "list") growing = number;
    }
    let end = 0;
    for (const token of tokens.slice(0, growing)) {
      if (!this.tail.startsWith(token.raw, end)) break;
      end += token.raw.length;
    }
    const before = this.tail;
    if (end) this.close(end);
    while (this.tail.length > LONGEST_BLOCK) this.cut();
    return this.tail === before ? tokens : null;
  }

  close(end, rest = this.tail.slice(end)) {
    const rendered = render(marked.lexer(this.tail.slice(0, end)));
    this.finished.push({ rendered, length: end, joined: this.joined });
    this.joined = false;
    this.tail = rest;
  }

  /** Begins a block: the browser leaves out sections that are not seen, and looks at each one for that. */
  begin() {
    if (!this.sections.length || this.sections.at(-1).length > SECTION) {
      const place = document.createElement("div");
      place.className = "section";
      this.place.append(place);
      this.sections.push({ place, length: 0 });
    }
    this.block = new Block();
    this.sections.at(-1).place.append(this.block.root);
  }

  cut() {
    const line = this.tail.lastIndexOf("\n", LONGEST_BLOCK);
    const word = this.tail.lastIndexOf(" ", LONGEST_BLOCK);
    let end = line > 0 ? line + 1 : word > 0 ? word + 1 : LONGEST_BLOCK;
    const fence = FENCE.exec(this.tail);
    if (fence && end <= fence[0].length) end = LONGEST_BLOCK;
    // half of a character is none
    if (/[\uD800-\uDBFF]/.test(this.tail[end - 1])) end -= 1;
    const rest = this.tail.slice(end);
    this.close(end, fence ? fence[0] + rest : rest);
    this.joined = true;
  }
}

/** A text that is whole, as Markdown. */
export function Markdown({ text }) {
  const place = useRef();
  useLayoutEffect(() => {
    place.current.replaceChildren();
    new MarkdownWriter(place.current).append(text);
  }, [text]);
  return html`<div class="markdown" ref=${place} />`;
}
