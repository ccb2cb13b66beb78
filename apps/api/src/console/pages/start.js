// What is ready, what loads and how long it still takes; and what to try first.
import { useState } from "preact/hooks";
import { get, key } from "../static/api.js";
import { bytes, Copy, duration, engineOf, html, Notice, number, State, useEvery } from "../static/ui.js";

function Model({ model }) {
  const { details } = model;
  const facts = [
    ["Route", html`<code>${model.route}</code>`],
    ["Time left", details.seconds_left && duration(details.seconds_left)],
    ["Loaded", details.total_bytes && `${bytes(details.loaded_bytes)} of ${bytes(details.total_bytes)}`],
    ["Size", details.parameters && `${number(details.parameters / 1e6, 0)} million parameters, ${bytes(details.weights_bytes)}`],
    ["Context", details.context_length && `${number(details.context_length)} tokens`],
    ["Engine", engineOf(details)],
    ["Answers at once", details.slots],
  ].filter(([, value]) => value);
  return html`<article class="card model"><h3>${model.name} <${State} state=${model.status} /></h3>
    <p class="quiet">${model.reason}</p>
    ${details.total_bytes ? html`<progress key="known" aria-label="Loading" value=${details.loaded_bytes} max=${details.total_bytes} />` : model.status === "loading" && html`<progress key="unknown" aria-label="Loading" />`}
    ${details.fallback_reason && html`<p class="notice">Answers in place of ${details.requested_model}: ${details.fallback_reason}</p>`}
    <dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl></article>`;
}

export function Start({ reaches }) {
  const [state, setState] = useState(null);
  const [error, setError] = useState(null);
  useEvery(1, () => get("/ready", { accept: [503] }).then((value) => { setState(value); setError(null); }, setError));
  const models = (state && state.models) || [];
  const answering = models.find((one) => one.status === "ready");
  const next = [
    ["chat", "Chat", "Ask a model, and see who answered, how fast and for how much."],
    ["documents", "Ask a document", "Drop a file in and ask it something; each citation opens at its sentence."],
    ["compare", "Compare", "Put one prompt to several models at once, with their receipts."],
  ].filter(([id]) => reaches(id));
  const command = `curl ${location.origin}/local/generate${key.value ? ' -H "Authorization: Bearer $GENAI_API_KEY"' : ""} -H 'Content-Type: application/json' -d '{"prompt": "What is Python?"}'`;
  const tries = next.length > 0 && html`<div key="tries"><h2>Try next</h2><div class="columns">${next.map(([id, name, text]) => html`<a class="card next" href=${`#/${id}`}><b>${name}</b><span>${text}</span></a>`)}</div></div>`;
  const loaded = html`<div key="models"><h2>Models</h2>${!state && !error && html`<p class="quiet">Asking the service.</p>`}
    <div class="columns">${models.map((one) => html`<${Model} key=${one.route} model=${one} />`)}</div></div>`;
  return html`<section class="start"><h1>genai-project</h1>
    <p class="lead">One API in front of cloud models and a local model on this machine's CPU. ${state && html`<b>${answering ? `${answering.name} is ready to answer.` : "No model is ready yet."}</b>`}</p>
    <${Notice} error=${error} />
    ${!state || answering ? [tries, loaded] : [loaded, tries]}
    <h2>From a program</h2><p>OpenAI's API is at <code>${location.origin}/v1</code>; every route is described in <a href="/docs">/docs</a>.</p>
    <pre class="wrap" tabindex="0"><code>${command}</code></pre><${Copy} text=${() => command} /></section>`;
}
