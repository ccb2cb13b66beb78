// One answer of a model: how it is asked for, how it grows, and how it is shown with its receipt.
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { get, stream } from "./api.js";
import { MarkdownWriter } from "./markdown.js";
import { dollars, duration, Field, html, number, save } from "./ui.js";

export const loadModels = () => get("/v1/models").then((list) => list.data.filter((model) => model.owned_by !== "embedder"));

const HEADERS = { "X-Model": "model", "X-Provider": "provider", "X-Attempts": "attempts", "X-Cache": "cache", "X-Cost-USD": "cost" };
export const BOUNDARIES = { machine: "this machine", network: "own network", outside: "outside" };
const ENDS = { length: "at the limit of tokens", tool_calls: "with calls of tools", content_filter: "by the content filter" };
const LONGEST_REASONING = 20_000;

const SHOWN_EVERY_MS = 30;

/** Text comes in small pieces. Every second frame it is read by the listener, and shown in the one behind it: neither has to do both. */
export class Answer {
  constructor(kept = {}) {
    this.parts = kept.text ? [kept.text] : [];
    this.pending = "";
    this.reasoning = kept.reasoning || "";
    this.calls = kept.calls || [];
    this.receipt = kept.receipt || {};
    this.finish = kept.finish || "";
    this.listener = null;
    this.frame = 0;
    this.shownAt = 0;
    this.isRead = false;
  }

  /** What is kept in the history. */
  kept() {
    return { text: this.text, reasoning: this.reasoning, calls: this.calls, receipt: this.receipt, finish: this.finish };
  }

  get text() {
    if (this.pending) this.flush();
    if (this.parts.length > 1) this.parts = [this.parts.join("")];
    return this.parts[0] || "";
  }

  changed() { this.frame ||= requestAnimationFrame((at) => this.step(at)); }

  step(at) {
    this.frame = 0;
    if (!this.isRead) this.read();
    if (at - this.shownAt < SHOWN_EVERY_MS) return this.changed();
    this.shownAt = at;
    this.show();
    if (this.pending) this.changed();
  }

  read() {
    const piece = this.pending;
    this.pending = "";
    this.isRead = true;
    if (!piece) return;
    this.parts.push(piece);
    if (this.listener) this.listener.read(piece);
  }

  show() {
    this.isRead = false;
    if (this.listener) this.listener.show();
  }

  /** Reads and shows all that has come. */
  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.read();
    this.show();
  }

  take(chunk) {
    if (chunk.usage) this.receipt.usage = chunk.usage;
    const choice = chunk.choices && chunk.choices[0];
    if (!choice) return;
    const delta = choice.delta || {};
    this.pending += delta.content || "";
    this.reasoning += delta.reasoning_content || "";
    for (const part of delta.tool_calls || []) {
      const call = (this.calls[part.index] ||= { name: "", arguments: "" });
      call.name += (part.function && part.function.name) || "";
      call.arguments += (part.function && part.function.arguments) || "";
    }
    this.finish = choice.finish_reason || this.finish;
    this.changed();
    return delta.content || delta.reasoning_content;
  }
}

/** Ask a model; `answer` grows meanwhile. Throws what went wrong; what came until then stays. */
export async function ask(answer, { model, messages, parameters, signal }) {
  const began = performance.now();
  const { receipt } = answer;
  const body = { model, messages, stream: true, stream_options: { include_usage: true }, ...parameters };
  const onEvent = (type, data) => {
    if (type === "receipt") Object.assign(receipt, JSON.parse(data));
    if (type === "receipt" || data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw Object.assign(new Error(chunk.error.message), { code: chunk.error.code });
    if (answer.take(chunk) && !receipt.first) receipt.first = (performance.now() - began) / 1000;
  };
  const onHeaders = (headers) => {
    for (const [header, name] of Object.entries(HEADERS)) if (headers.get(header) !== null) receipt[name] = headers.get(header);
    const queued = headers.get("X-Queue-Ms");
    if (queued !== null) receipt.queued = Number(queued) / 1000;
  };
  try {
    await stream("/v1/chat/completions", body, { signal, onHeaders, onEvent });
    if (!answer.finish) throw new Error("The answer was cut off");
  } catch (problem) {
    if (problem.name !== "AbortError") throw problem;
    answer.finish = "stopped";
  } finally {
    receipt.seconds = (performance.now() - began) / 1000;
    answer.flush();
  }
}

/** Tokens a second of an answer that was written for this call; null of one that was kept. */
export function rate(receipt) {
  if (receipt.cache && receipt.cache !== "miss") return null;
  const tokens = receipt.usage && receipt.usage.completion_tokens;
  return tokens > 1 && receipt.first ? (tokens - 1) / Math.max(0.001, receipt.seconds - receipt.first) : null;
}

export function Receipt({ receipt, finish }) {
  const usage = receipt.usage;
  const facts = [
    ["answered by", [receipt.provider, receipt.model].filter(Boolean).join(" / ")],
    ["attempts", receipt.attempts > 1 ? `${receipt.attempts}: ${(receipt.tried || []).join(", ")}` : receipt.attempts],
    ["cache", receipt.cache],
    ["queue", receipt.queued !== undefined && duration(receipt.queued)],
    ["first token", receipt.first && duration(receipt.first)],
    ["whole", receipt.seconds && duration(receipt.seconds)],
    ["speed", rate(receipt) && `${number(rate(receipt), 1)} tokens/s`],
    ["tokens", usage && `${usage.prompt_tokens} in, ${usage.completion_tokens} out`],
    ["cost", receipt.cost !== undefined && receipt.cost !== null && dollars(Number(receipt.cost))],
    ["text went to", BOUNDARIES[receipt.boundary]],
    ["ended", finish && finish !== "stop" && (ENDS[finish] || finish.replaceAll("_", " "))],
  ].filter(([, value]) => value);
  return html`<dl class="receipt" aria-label="Receipt">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** An answer as it grows, and with its receipt once it is whole; only its last block is drawn again. */
export function AnswerView({ answer, onGrow = () => {} }) {
  const place = useRef(), grow = useRef();
  const [, setShown] = useState("");
  const [hidden, setHidden] = useState(0);
  const [open, setOpen] = useState(false);
  grow.current = onGrow;
  useLayoutEffect(() => {
    place.current.replaceChildren();
    const writer = new MarkdownWriter(place.current);
    for (const part of answer.parts) writer.append(part);
    setHidden(writer.hidden);
    answer.listener = {
      read: (piece) => writer.take(piece),
      show: () => {
        writer.show();
        setHidden(writer.hidden);
        setShown(`${answer.reasoning.length} ${answer.calls.reduce((sum, call) => sum + call.arguments.length, answer.calls.length)} ${answer.receipt.seconds}`);
        grow.current();
      },
    };
    return () => { answer.listener = null; };
  }, [answer]);
  const empty = !answer.parts.length && !answer.reasoning && !answer.calls.length;
  return html`<div class="answer">
    ${answer.reasoning && html`<details onToggle=${(event) => setOpen(event.target.open)}><summary>Reasoning</summary>${open && html`<div class="plain">${answer.reasoning.slice(-LONGEST_REASONING)}</div>`}</details>`}
    ${hidden > 0 && html`<p class="notice">The first ${number(hidden)} characters are not shown here. <button type="button" class="link" onClick=${() => save("answer.md", "text/markdown", answer.parts)}>Save the whole answer</button></p>`}
    ${empty && html`<p class="quiet waiting">${answer.receipt.seconds ? "No text came." : "Waiting for the first token"}</p>`}
    <div class="markdown" ref=${place} />
    ${answer.calls.map((call) => html`<pre class="call" tabindex="0">${call.name}(${call.arguments})</pre>`)}
    ${answer.receipt.seconds && html`<${Receipt} receipt=${answer.receipt} finish=${answer.finish} />`}
  </div>`;
}

export function ModelSelect({ models, value, set, label = "Model" }) {
  return html`<${Field} label=${label}><select value=${value} onChange=${(event) => set(event.target.value)}>
    ${models.map((model) => html`<option value=${model.id} key=${model.id}>${model.id}${model.status === "ready" ? "" : ` (${model.status.replace("_", " ")})`}</option>`)}
  </select><//>`;
}

export function best(models) {
  // an upstream that was never asked may be ready, too
  const ready = ["ready", "unknown"].flatMap((status) => models.filter((model) => model.status === status));
  return ((ready.find((model) => model.owned_by === "local") || ready[0] || models[0]) || {}).id || "";
}
