// The service now: tokens and calls a second, slots and queues, errors, the event loop, memory, caches.
import { useState } from "preact/hooks";
import { get } from "../static/api.js";
import { Plot } from "../static/plot.js";
import { bytes, dollars, duration, engineOf, html, Notice, number, State, Table, useEvery } from "../static/ui.js";

const KEPT = 150;
const SECONDS = 2;

/** Sums of metrics by name; `only` chooses by labels. */
function reader(values) {
  return (name, only = () => true) => (values[name] || []).filter((one) => only(one.labels)).reduce((total, one) => total + one.value, 0);
}

function pointOf(summary) {
  const sum = reader(summary.values);
  return {
    at: summary.at,
    tokens: sum("genai_tokens_total", (labels) => labels.kind === "completion"),
    requests: sum("genai_http_requests_total"),
    errors: sum("genai_http_requests_total", ({ status }) => status >= "500" && status < "600"),
    refused: sum("genai_http_requests_total", ({ status }) => status >= "400" && status < "500"),
    lag: sum("genai_event_loop_lag_seconds") * 1000,
    memory: sum("process_resident_memory_bytes") / 1e6,
    cpu: sum("process_cpu_seconds_total"),
  };
}

function providersOf(values) {
  const of = (name, provider) => reader(values)(name, (labels) => labels.provider === provider);
  return (values.genai_provider_slots || []).map(({ labels: { provider }, value }) => ({
    key: provider, provider, slots: value, busy: of("genai_provider_slots_busy", provider), queue: of("genai_provider_queue_length", provider),
    wait: of("genai_provider_predicted_wait_seconds", provider), calls: of("genai_calls_total", provider),
    worst: Math.max(0, ...(values.genai_breaker_state || []).filter(({ labels }) => labels.provider === provider).map((one) => one.value)),
  }));
}

function Numbers({ values, now }) {
  const sum = reader(values);
  const uses = (use) => sum("genai_cache_uses_total", (labels) => labels.use === use);
  const cached = uses("hit") + uses("semantic"), lookups = cached + uses("miss");
  const prompt = sum("genai_tokens_total", (labels) => labels.kind === "prompt");
  const facts = [
    ["Calls under way", number(sum("genai_calls_in_progress"))],
    ["Open connections", number(sum("genai_connections"))],
    ["Requests since the start", number(now.requests)],
    ["Refused (4xx), failed (5xx)", `${number(now.refused)}, ${number(now.errors)}`],
    ["Response cache", lookups ? `${number((100 * cached) / lookups, 0)} % of ${number(lookups)} lookups` : "off, or not used yet"],
    ["Prompt tokens from the prefix cache", prompt ? `${number((100 * sum("genai_cached_prompt_tokens_total")) / prompt, 0)} %` : "-"],
    ["Saved by caches", dollars(sum("genai_saved_usd_total"))],
    ["Cost since the start", dollars(sum("genai_cost_usd_total"))],
    ["Stalls of the event loop", number(sum("genai_event_loop_stalls_total"))],
    ["Rows waiting for the ledger", number(sum("genai_ledger_waiting"))],
    ["Memory", bytes(now.memory * 1e6)],
    ["Up", duration(now.at - sum("process_start_time_seconds"))],
  ];
  return html`<dl class="numbers">${facts.map(([name, value]) => html`<div class="card"><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

export function Live() {
  const [points, setPoints] = useState([]);
  const [values, setValues] = useState({});
  const [models, setModels] = useState([]);
  const [error, setError] = useState(null);
  useEvery(SECONDS, async () => {
    try {
      const [summary, ready] = await Promise.all([get("/v1/summary"), get("/ready", { accept: [503] })]);
      setPoints((old) => [...old.slice(-KEPT), pointOf(summary)]);
      setValues(summary.values);
      setModels(ready.models || []);
      setError(null);
    } catch (problem) {
      setError(problem);
    }
  });
  const later = points.slice(1);
  const at = later.map((point) => point.at);
  const rate = (name) => later.map((point, i) => Math.max(0, point[name] - points[i][name]) / Math.max(0.001, point.at - points[i].at));
  const breaker = (worst) => ["closed", "half_open", "open"][worst];
  return html`<section><h1>Live</h1><${Notice} error=${error} />
    ${at.length === 0 && !error && html`<p class="quiet" role="status">The first rates come in a moment.</p>`}
    ${at.length > 0 && html`<div class="columns plots">
      <${Plot} title="Written:" labels=${["tokens/s"]} data=${[at, rate("tokens")]} />
      <${Plot} title="Answered:" labels=${["requests/s"]} data=${[at, rate("requests")]} />
      <${Plot} title="Errors:" labels=${["refused/s", "failed/s"]} data=${[at, rate("refused"), rate("errors")]} />
      <${Plot} title="Event loop's longest delay:" labels=${["ms"]} data=${[at, later.map((one) => one.lag)]} />
      <${Plot} title="Memory:" labels=${["MB"]} data=${[at, later.map((one) => one.memory)]} />
      <${Plot} title="Processor:" labels=${["cores"]} data=${[at, rate("cpu")]} /></div>
      <h2>Numbers</h2><${Numbers} values=${values} now=${points.at(-1)} />`}
    <h2>Models of this process</h2><${Table} caption="Slots" rows=${models.map((one) => ({ ...one, key: one.route }))} columns=${[
      ["Model", (one) => html`<b>${one.name}</b>`], ["State", (one) => html`<${State} state=${one.status} />`], ["Slots in use", (one) => (one.details.slots ? `${one.details.running} of ${one.details.slots}` : "-"), "number"], ["Waiting", (one) => (one.details.slots ? `${one.details.waiting} of ${one.details.queue_size}` : "-"), "number"], ["Predicted wait", (one) => (one.details.slots ? duration(one.details.predicted_wait) : "-"), "number"],
      ["Cached prefixes", (one) => (one.details.cached_sequences === undefined ? "-" : `${number(one.details.cached_sequences)}, at most ${bytes(one.details.cache_bytes_at_most)}`), "number"], ["Engine", (one) => engineOf(one.details) || "-"]]} />
    <h2>Providers</h2><${Table} caption="Providers" rows=${providersOf(values)} columns=${[
      ["Provider", (one) => html`<b>${one.provider}</b>`], ["Worst breaker", (one) => html`<${State} state=${breaker(one.worst)} />`], ["Slots in use", (one) => `${one.busy} of ${one.slots}`, "number"], ["Waiting", (one) => one.queue, "number"], ["Predicted wait", (one) => duration(one.wait), "number"], ["Calls answered", (one) => number(one.calls), "number"]]} /></section>`;
}
