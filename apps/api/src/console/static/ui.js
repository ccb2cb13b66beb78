// What the pages are made of: markup, tables, forms, states and times.
import { h } from "preact";
import { useEffect, useState } from "preact/hooks";
import htm from "htm";

export const html = htm.bind(h);

export function Notice({ error, children }) {
  if (error) {
    const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
    return html`<p class="notice bad" role="alert">${error.message}${wait}</p>`;
  }
  return children ? html`<p class="notice" role="status">${children}</p>` : null;
}

/** A column is [name, cell of a row, kind]; of kind "number" it is set to the right. On a phone each row is a card. */
export function Table({ caption, columns, rows, empty = "Nothing here yet.", total }) {
  if (!rows.length) return html`<p class="quiet">${empty}</p>`;
  const line = (row, key) => html`<tr role="row" key=${key} class=${row.highlighted ? "highlighted" : undefined}>${columns.map(([name, cell, kind]) => html`<td role="cell" class=${kind} data-label=${name}>${cell(row)}</td>`)}</tr>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table role="table">
    <caption class="hidden">${caption}</caption>
    <thead role="rowgroup"><tr role="row">${columns.map(([name, , kind]) => html`<th role="columnheader" scope="col" class=${kind}>${name || html`<span class="hidden">Actions</span>`}</th>`)}</tr></thead>
    <tbody role="rowgroup">${rows.map((row) => line(row, row.key))}</tbody>
    ${total && html`<tfoot role="rowgroup">${line(total, "total")}</tfoot>`}
  </table></div>`;
}

export function Field({ label, help, children }) {
  return html`<label class="field"><span>${label}</span>${children}${help && html`<small>${help}</small>`}</label>`;
}

const GOOD = ["ready", "live", "done", "closed", "ok"], BAD = ["failed", "revoked", "open", "expired"];

/** A state as a word in its colour. */
export function State({ state }) {
  const kind = GOOD.includes(state) ? "good" : BAD.includes(state) ? "bad" : "";
  return html`<span class=${`state ${kind}`}>${String(state).replaceAll("_", " ")}</span>`;
}

/** A button that copies a text, and says so. */
export function Copy({ text, children = "Copy" }) {
  const [done, setDone] = useState("");
  useEffect(() => { if (done) { const timer = setTimeout(() => setDone(""), 3000); return () => clearTimeout(timer); } }, [done]);
  return html`<button type="button" class="link" onClick=${() => navigator.clipboard.writeText(text()).then(() => setDone(" (copied)"), () => setDone(" (the browser refused)"))}>${children}<span role="status">${done}</span></button>`;
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

export function number(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "-";
  return Number(value).toLocaleString("en", { maximumFractionDigits: digits });
}

export function dollars(value) {
  if (value === null || value === undefined) return "-";
  return `$${Number(value).toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: value && Math.abs(value) < 0.1 ? 6 : 2 })}`;
}

/** A time in the reader's zone, from Unix seconds or ISO 8601: 2026-11-28 14:05. */
export function when(value) {
  const at = new Date(typeof value === "number" ? value * 1000 : value);
  const two = (part) => String(part).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  if (seconds < 1) return `${number(seconds * 1000, seconds < 0.01 ? 1 : 0)} ms`;
  return seconds < 90 ? `${number(seconds, seconds < 10 ? 2 : 0)} s` : `${number(seconds / 60, 1)} min`;
}

/** Patterns in words: `*` alone is all of them. */
export const allOr = (what, patterns) => (patterns.includes("*") ? `all ${what}` : patterns.join(", "));

/** How a model of this machine is computed. */
export function engineOf({ engine, kernels, precision }) {
  return [engine && `${engine} engine`, kernels && `kernels: ${kernels}`, precision].filter(Boolean).join("; ");
}

export function bytes(value) {
  if (value === null || value === undefined) return "-";
  const step = value < 1e3 ? 0 : value < 1e6 ? 1 : value < 1e9 ? 2 : 3;
  return `${number(value / 1000 ** step, step > 1 ? 1 : 0)} ${["B", "kB", "MB", "GB"][step]}`;
}

export function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content].flat(), { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
