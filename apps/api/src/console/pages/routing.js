// Names that calls may use, the order of their targets now, breakers; and the routing file checked before a reload.
import { useState } from "preact/hooks";
import { get, post } from "../static/api.js";
import { BOUNDARIES } from "../static/answer.js";
import { dollars, duration, Field, html, Notice, State, Table, useEvery } from "../static/ui.js";

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

function Changes({ of: changes }) {
  if (!changes || !changes.length) return html`<span class="quiet">no change yet</span>`;
  return html`<ol class="changes">${changes.map((change) => html`<li><${State} state=${change.state} /> <small>${clock(change.at)}</small></li>`)}</ol>`;
}

const COLUMNS = [
  ["Target", (one) => html`<b>${one.target}</b>`], ["Breaker", (one) => html`<${State} state=${one.breaker} />`], ["Its changes", (one) => html`<${Changes} of=${one.breaker_changes} />`],
  ["Where", (one) => BOUNDARIES[one.boundary] || "-"], ["Under way", (one) => one.busy, "number"], ["First token", (one) => duration(one.latency), "number"], ["Weight", (one) => one.weight, "number"],
  ["Price a million", (one) => (one.price ? `${dollars(one.price.input)} in, ${dollars(one.price.output)} out` : "not known")],
];
const LEFT_OUT = [...COLUMNS, ["Lacks", (one) => [one.lacking].flat().filter(Boolean).join(", ") || "-"]];

export function Routing({ me }) {
  const [models, setModels] = useState(null);
  const [error, setError] = useState(null);
  const [asked, setAsked] = useState("");
  const [plan, setPlan] = useState(null);
  const [problem, setProblem] = useState(null);
  const [file, setFile] = useState("");
  const [checked, setChecked] = useState(null);
  useEvery(5, () => get("/v1/models").then((list) => { setModels(list.data); setError(null); }, setError));
  const check = (event) => {
    event.preventDefault();
    post("/admin/routing/check", file.trim() ? { yaml: file } : {}).then((value) => { setChecked(value); setProblem(null); }, setProblem);
  };
  const explain = (name) => {
    setAsked(name);
    get(`/v1/route?model=${encodeURIComponent(name)}`).then((value) => { setPlan(value); setProblem(null); }, (failed) => { setPlan(null); setProblem(failed); });
  };
  const targets = (list) => (list || []).map((one, i) => ({ key: i, ...one }));
  return html`<section><h1>Routing</h1><${Notice} error=${error} />
    <form class="card" onSubmit=${(event) => { event.preventDefault(); asked.trim() && explain(asked.trim()); }}><${Field} label="What happens to a call for the model"><input id="route" value=${asked} onInput=${(event) => setAsked(event.target.value)} list="names" /><datalist id="names">${(models || []).map((one) => html`<option value=${one.id} />`)}</datalist><//><div class="row"><button>Explain</button><span class="quiet">Nothing is called, and nothing is spent.</span></div></form>
    <${Notice} error=${problem} />
    ${plan && html`<article class="card" id="plan"><h2>${plan.model}</h2><p>${plan.strategy === "ordered" ? "Its targets are tried in the order of the file" : `The strategy is ${plan.strategy.replaceAll("_", " ")}`}; now this is the order:</p><${Table} caption="Order" rows=${targets(plan.order)} columns=${COLUMNS} empty="No target can take it." />${plan.left_out.length > 0 && html`<h3>Left out</h3><${Table} caption="Left out" rows=${targets(plan.left_out)} columns=${LEFT_OUT} />`}</article>`}
    <h2>Names</h2><${Table} caption="Names" rows=${(models || []).map((one) => ({ key: one.id, ...one }))} empty=${models ? "There are none." : "Asking the service."} columns=${[
      ["Model", (one) => html`<button type="button" class="link" onClick=${() => { explain(one.id); scrollTo(0, 0); }}>${one.id}</button>`], ["State", (one) => html`<${State} state=${one.status} />`], ["Targets", (one) => html`<ul class="targets">${(one.targets || []).map((target) => html`<li>${target.target} <${State} state=${target.breaker} /></li>`)}</ul>`], ["Details", (one) => one.reason]]} />
    ${me && me.admin && html`<h2>Check the routing file</h2>
    <form class="card" onSubmit=${check}><${Field} label="Its text" help="Left empty: the service's own file as it is on the disk. Nothing is put in force."><textarea id="routing-file" rows="6" spellcheck="false" value=${file} onInput=${(event) => setFile(event.target.value)} /><//><div class="row"><button id="check">Check</button></div></form>
    ${checked && html`<article class=${`notice ${checked.ok ? "" : "bad"}`} id="checked" role="status">${checked.ok ? `No fault: ${checked.models.length} names, ${checked.providers.length} providers.` : html`<ul>${checked.faults.map((fault) => html`<li key=${fault}><code>${fault}</code></li>`)}</ul>`}</article>`}`}</section>`;
}
