// Markdown that grows: what is finished is rendered once, and only the last block again. A model's or a document's
// text becomes markup through DOMPurify alone, which keeps neither images nor scripts nor styles.
import { useLayoutEffect, useRef } from "preact/hooks";
import DOMPurify from "dompurify";
import { marked } from "marked";
import { html } from "./ui.js";

const CLEAN = {
  RETURN_TRUSTED_TYPE: true,
  ALLOWED_TAGS: ["p", "br", "hr", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li", "a", "table",
    "thead", "tbody", "tr", "th", "td", "h1", "h2", "h3", "h4", "h5", "h6", "sup", "sub"],
  ALLOWED_ATTR: ["href", "title", "align", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|#)/i,
};
DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  // wide code and wide tables are scrolled, by the keyboard too
  if (node.tagName === "PRE" || node.tagName === "TABLE") node.setAttribute("tabindex", "0");
  // the page has headings of its own above these
  const level = /^H([1-4])$/.exec(node.tagName);
  if (level) node.setAttribute("aria-level", String(Math.max(3, Number(level[1]) + 2)));
});
const OPTIONS = { gfm: true, breaks: true };
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
    // blocks that are finished and not on the page yet, and the HTML of the one that grows
    this.finished = [];
    this.growing = null;
    this.last = place.appendChild(document.createElement("div"));
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
    this.growing = tokens ? clean(tokens) : rendered(this.tail);
  }

  show() {
    for (const { html, length, joined } of this.finished) {
      const block = document.createElement("div");
      block.className = `block${joined ? " joined" : ""}`;
      block.innerHTML = html;
      this.section().append(block);
      this.sections.at(-1).length += length;
      this.shown += length;
    }
    this.finished = [];
    while (this.shown > MOST_SHOWN) {
      const oldest = this.sections.shift();
      oldest.place.remove();
      this.shown -= oldest.length;
      this.hidden += oldest.length;
    }
    this.last.className = `block${this.joined ? " joined" : ""}`;
    if (this.growing !== null) this.last.innerHTML = this.growing;
  }

  /** Renders for good what can no longer change; returns the tokens of the tail where that is still the same. */
  settle() {
    const tokens = marked.lexer(this.tail, OPTIONS);
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
    this.finished.push({ html: rendered(this.tail.slice(0, end)), length: end, joined: this.joined });
    this.joined = false;
    this.tail = rest;
  }

  /** Where the next block goes: the browser leaves out sections that are not seen, and looks at each one for that. */
  section() {
    if (!this.sections.length || this.sections.at(-1).length > SECTION) {
      const place = document.createElement("div");
      place.className = "section";
      this.place.insertBefore(place, this.last);
      this.sections.push({ place, length: 0 });
    }
    return this.sections.at(-1).place;
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

const clean = (tokens) => DOMPurify.sanitize(marked.parser(tokens, OPTIONS), CLEAN);
const rendered = (text) => clean(marked.lexer(text, OPTIONS));

/** A text that is whole, as Markdown. */
export function Markdown({ text }) {
  const place = useRef();
  useLayoutEffect(() => {
    place.current.replaceChildren();
    new MarkdownWriter(place.current).append(text);
  }, [text]);
  return html`<div class="markdown" ref=${place} />`;
}
