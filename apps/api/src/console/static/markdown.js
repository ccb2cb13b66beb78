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
const FENCE = /^ {0,3}(`{3,}|~{3,})[^\n]*\n/;

/** Writes Markdown into `place`, piece by piece. A block over LONGEST_BLOCK characters is cut; beyond MOST_SHOWN the oldest blocks leave the page. */
export class MarkdownWriter {
  constructor(place) {
    this.place = place;
    this.tail = "";
    this.sections = [];
    this.shown = 0;
    this.hidden = 0;
    this.joined = false;
    this.last = place.appendChild(document.createElement("div"));
  }

  append(text) {
    const skipped = Math.max(0, text.length - MOST_SHOWN);
    this.hidden += skipped;
    // a parser's work grows faster than what it is given at once
    for (let from = skipped; from < text.length; from += 2 * LONGEST_BLOCK) {
      this.tail += text.slice(from, from + 2 * LONGEST_BLOCK).replaceAll("\r\n", "\n");
      this.settle();
    }
    this.last.className = `block${this.joined ? " joined" : ""}`;
    this.last.innerHTML = rendered(this.tail);
  }

  /** Renders for good what can no longer change. */
  settle() {
    const tokens = marked.lexer(this.tail, OPTIONS);
    let growing = tokens.length - 1;
    while (growing > 0 && tokens[growing].type === "space") growing -= 1;
    let end = 0;
    for (const token of tokens.slice(0, growing)) {
      if (!this.tail.startsWith(token.raw, end)) break;
      end += token.raw.length;
    }
    if (end) this.close(end);
    while (this.tail.length > LONGEST_BLOCK) this.cut();
  }

  close(end, rest = this.tail.slice(end)) {
    const block = document.createElement("div");
    block.className = `block${this.joined ? " joined" : ""}`;
    block.innerHTML = rendered(this.tail.slice(0, end));
    this.section().append(block);
    this.sections.at(-1).length += end;
    this.shown += end;
    this.joined = false;
    this.tail = rest;
    while (this.shown > MOST_SHOWN) {
      const oldest = this.sections.shift();
      oldest.place.remove();
      this.shown -= oldest.length;
      this.hidden += oldest.length;
    }
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

function rendered(text) {
  return DOMPurify.sanitize(marked.parser(marked.lexer(text, OPTIONS), OPTIONS), CLEAN);
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
