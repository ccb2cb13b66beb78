// What the pages are made of: markup, tables, forms, Markdown, plots. Text of models and documents is never markup
// but through DOMPurify, which keeps neither images nor scripts nor styles.
import { h, Fragment } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import htm from "htm";
import { marked } from "marked";
import DOMPurify from "dompurify";
import uPlot from "uplot";

export const html = htm.bind(h);

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
});
const LONGEST_MARKDOWN = 200_000;

/** A text as Markdown; plain where it is too long to parse at each step of a stream. */
export function Markdown({ text }) {
  if (text.length > LONGEST_MARKDOWN) return html`<div class="plain">${text}</div>`;
  const clean = DOMPurify.sanitize(marked.parse(text, { async: false, gfm: true, breaks: true }), CLEAN);
  return html`<div class="markdown" dangerouslySetInnerHTML=${{ __html: clean }} />`;
}

export function Notice({ error, children }) {
  if (error) {
    const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
    return html`<p class="notice bad" role="alert">${error.message}${wait}</p>`;
  }
  return children ? html`<p class="notice" role="status">${children}</p>` : null;
}

export function Table({ caption, columns, rows, empty = "Nothing here yet." }) {
  if (!rows.length) return html`<p class="quiet">${empty}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table>
    <caption class="hidden">${caption}</caption>
    <thead><tr>${columns.map(([name]) => html`<th scope="col">${name}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${row.key}>${columns.map(([, cell]) => html`<td>${cell(row)}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

export function Field({ label, help, children }) {
  return html`<label class="field"><span>${label}</span>${children}${help && html`<small>${help}</small>`}</label>`;
}

/** Loads once, and again by `reload`: [value, error, reload]. */
export function useLoaded(load, again = []) {
  const [state, set] = useState({ value: null, error: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let live = true;
    load().then((value) => live && set({ value, error: null }), (error) => live && set((old) => ({ ...old, error })));
    return () => { live = false; };
  }, [turn, ...again]);
  return [state.value, state.error, () => setTurn((n) => n + 1)];
}

/** Calls `work` now and every so many seconds while the page is shown. */
export function useEvery(seconds, work) {
  useEffect(() => {
    work();
    const timer = setInterval(() => document.hidden || work(), seconds * 1000);
    return () => clearInterval(timer);
  }, []);
}

/** Lines over time: `data` is [times, values, ...]. */
export function Plot({ title, labels, data, height = 160 }) {
  const place = useRef(), plot = useRef();
  useEffect(() => {
    const colours = ["#2f7fc1", "#c2572b", "#3a8f4f", "#8a5bb5"];
    const ink = getComputedStyle(place.current).color;
    const axis = { stroke: ink, grid: { stroke: "#8884", width: 1 }, ticks: { stroke: "#8884" } };
    const series = [{}, ...labels.map((label, i) => ({ label, stroke: colours[i % 4], width: 2, spanGaps: true }))];
    const size = () => ({ width: Math.max(200, place.current.clientWidth), height });
    plot.current = new uPlot({ ...size(), series, axes: [axis, { ...axis, size: 60 }], legend: { show: false }, cursor: { show: false } }, data, place.current);
    const watch = new ResizeObserver(() => place.current && plot.current.setSize(size()));
    watch.observe(place.current);
    return () => { watch.disconnect(); plot.current.destroy(); };
  }, [labels.join()]);
  useEffect(() => { plot.current && plot.current.setData(data); }, [data]);
  const last = labels.map((label, i) => `${label} ${number(data[i + 1][data[i + 1].length - 1])}`).join(", ");
  return html`<figure><figcaption>${title}: <b>${last}</b></figcaption><div ref=${place} role="img" aria-label=${`${title}: ${last}`} /></figure>`;
}

export function number(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "-";
  return Number(value).toLocaleString("en", { maximumFractionDigits: digits });
}

export function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export { Fragment };
