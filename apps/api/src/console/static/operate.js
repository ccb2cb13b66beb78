// What an operator looks at: the start, usage, keys, routing, live numbers.
import { useState } from "preact/hooks";
import { get, post, remove, text } from "./api.js";
import { Field, html, Notice, number, Plot, save, Table, useEvery, useLoaded } from "./ui.js";

export function Start() {
  const [state, setState] = useState(null);
  const [error, setError] = useState(null);
  useEvery(1, () => get("/ready", { accept: [503] }).then((value) => { setState(value); setError(null); }, setError));
  const models = (state && state.models) || [];
  return html`<section><h1>genai-project</h1><p>One API in front of cloud models and a local model on this machine's CPU.</p>
    <${Notice} error=${error} />
    <${Table} caption="Models" rows=${models.map((one) => ({ key: one.route, ...one }))} empty="Asking the service." columns=${[
      ["Route", (one) => html`<code>${one.route}</code>`], ["Model", (one) => one.name], ["State", (one) => html`<span class=${`state ${one.status}`}>${one.status.replace("_", " ")}</span>`], ["Why", (one) => one.reason]]} />
    <h2>Try next</h2><ol>
      <li><a href="#/chat">Chat</a> with the local model. No key is needed.</li>
      <li>Drop a file into <a href="#/documents">Documents</a> and ask it something.</li>
      <li><a href="#/compare">Compare</a> two models on one prompt, with their receipts.</li>
    </ol><p>Programs speak OpenAI's API at <code>${location.origin}/v1</code>; every route is described in <a href="/docs">/docs</a>.</p></section>`;
}

export function Usage({ me }) {
  const [groups, setGroups] = useState("day,model");
  const path = me && me.admin && me.authenticated ? "/admin/usage" : "/v1/usage";
  const [report, error] = useLoaded(() => get(`${path}?group_by=${groups}&limit=1000`), [groups, path]);
  const rows = report ? report.data : [];
  const days = [...new Set(rows.map((row) => row.day).filter(Boolean))].sort();
  const sum = (day, name) => rows.filter((row) => row.day === day).reduce((total, row) => total + (row[name] || 0), 0);
  const data = [days.map((day) => Date.parse(day) / 1000), days.map((day) => sum(day, "calls")), days.map((day) => sum(day, "completion_tokens"))];
  const budget = me && me.budget;
  return html`<section><h1>Usage</h1><${Notice} error=${error} />
    ${budget && html`<p>Budget of this ${budget.period}: $${number(budget.spent_usd, 6)} of $${number(budget.limit_usd)} spent. <meter min="0" max=${budget.limit_usd} value=${budget.spent_usd + budget.reserved_usd} aria-label="Budget" /></p>`}
    <div class="row"><${Field} label="By"><select value=${groups} onChange=${(event) => setGroups(event.target.value)}>${["day,model", "day,key", "day,route", "day"].map((one) => html`<option>${one}</option>`)}</select><//>
      <button type="button" onClick=${() => text(`${path}?group_by=${groups}&format=csv&limit=1000`, "text/csv").then((csv) => save("usage.csv", "text/csv", csv))}>CSV</button></div>
    ${days.length > 0 && html`<${Plot} title="Calls a day, tokens of answers a day" labels=${["calls", "tokens"]} data=${data} />`}
    <${Table} caption="Usage" rows=${rows.map((row, i) => ({ key: i, ...row }))} empty="No calls in these days." columns=${(rows.length ? Object.keys(rows[0]) : []).map((name) => [name.replaceAll("_", " "), (row) => (typeof row[name] === "number" ? number(row[name], 6) : row[name])])} /></section>`;
}

const TERMS = [["name", "Name", "text"], ["models", "Models", "text"], ["routes", "Routes", "text"], ["rpm", "Requests a minute", "number"], ["tpm", "Tokens a minute", "number"], ["budget_usd", "Budget (5/month)", "text"], ["expires", "Expires (90d)", "text"]];

export function Keys() {
  const [keys, error, reload] = useLoaded(() => get("/admin/keys"));
  const [terms, setTerms] = useState({});
  const [made, setMade] = useState(null);
  const [problem, setProblem] = useState(null);
  const done = (work) => work.then((value) => { setProblem(null); reload(); return value; }, setProblem);
  function create(event) {
    event.preventDefault();
    const body = {};
    for (const [name, , type] of TERMS) if (terms[name]) body[name] = ["models", "routes"].includes(name) ? terms[name].split(",").map((one) => one.trim()) : type === "number" ? Number(terms[name]) : terms[name];
    done(post("/admin/keys", { ...body, admin: !!terms.admin })).then((value) => value && setMade(value));
  }
  return html`<section><h1>Keys</h1><${Notice} error=${error} />
    <form onSubmit=${create}><div class="row">${TERMS.map(([name, label, type]) => html`<${Field} label=${label}><input name=${name} type=${type} required=${name === "name"} value=${terms[name] || ""} onInput=${(event) => setTerms({ ...terms, [name]: event.target.value })} /><//>`)}
      <label class="check"><input type="checkbox" checked=${!!terms.admin} onChange=${(event) => setTerms({ ...terms, admin: event.target.checked })} /> Admin</label></div><button>Make a key</button></form>
    <${Notice} error=${problem} />
    ${made && html`<div class="notice" role="status">The key of ${made.name}, shown this once: <code id="made">${made.key}</code> <button type="button" class="link" onClick=${() => setMade(null)}>Hide</button></div>`}
    <${Table} caption="Keys" rows=${((keys && keys.data) || []).map((one) => ({ key: one.id, ...one }))} columns=${[
      ["Name", (one) => one.name], ["Begins", (one) => html`<code>${one.prefix}</code>`], ["Tenant", (one) => one.tenant], ["Status", (one) => one.status], ["Models", (one) => one.models.join(", ")], ["Routes", (one) => one.routes.join(", ")], ["Limits", (one) => [one.rpm && `${one.rpm} rpm`, one.tpm && `${one.tpm} tpm`, one.budget_usd].filter(Boolean).join(", ") || "-"], ["Expires", (one) => one.expires_at || "never"],
      ["", (one) => one.status === "live" && html`<button type="button" class="link" onClick=${() => done(post(`/admin/keys/${one.id}/rotate`)).then((value) => value && setMade(value))}>Rotate</button> <button type="button" class="link revoke" onClick=${() => done(remove(`/admin/keys/${one.id}`))}>Revoke</button>`]]} /></section>`;
}

export function Routing() {
  const [models, error, reload] = useLoaded(() => get("/v1/models"));
  const [name, setName] = useState("");
  const [plan, setPlan] = useState(null);
  const [problem, setProblem] = useState(null);
  const [file, setFile] = useState("");
  const [checked, setChecked] = useState(null);
  useEvery(5, reload);
  function check(event) {
    event.preventDefault();
    post("/admin/routing/check", file.trim() ? { yaml: file } : {}).then((value) => { setChecked(value); setProblem(null); }, setProblem);
  }
  function explain(event) {
    event.preventDefault();
    get(`/v1/route?model=${encodeURIComponent(name)}`).then((value) => { setPlan(value); setProblem(null); }, setProblem);
  }
  const targets = (list) => (list || []).map((one, i) => ({ key: i, ...one }));
  const columns = [["Target", (one) => one.target], ["Breaker", (one) => one.breaker], ["Before", (one) => (one.breaker_changes || []).map((change) => `${change.state} ${new Date(change.at * 1000).toLocaleTimeString()}`).join(", ") || "-"], ["Busy", (one) => one.busy], ["Latency", (one) => number(one.latency, 3)], ["Price", (one) => (one.price ? JSON.stringify(one.price) : "-")], ["Lacking", (one) => (one.lacking || []).toString() || "-"]];
  return html`<section><h1>Routing</h1><${Notice} error=${error} />
    <form onSubmit=${explain}><${Field} label="A call for the model"><input id="route" value=${name} onInput=${(event) => setName(event.target.value)} list="names" /><datalist id="names">${((models && models.data) || []).map((one) => html`<option value=${one.id} />`)}</datalist><//><button>Explain</button></form>
    <${Notice} error=${problem} />
    ${plan && html`<article><h2>${plan.model}: ${plan.strategy}</h2><${Table} caption="Order" rows=${targets(plan.order)} columns=${columns} />${plan.left_out.length > 0 && html`<h3>Left out</h3><${Table} caption="Left out" rows=${targets(plan.left_out)} columns=${columns} />`}</article>`}
    <h2>Names</h2><${Table} caption="Names" rows=${((models && models.data) || []).map((one) => ({ key: one.id, ...one }))} columns=${[
      ["Model", (one) => one.id], ["State", (one) => html`<span class=${`state ${one.status}`}>${one.status.replace("_", " ")}</span>`], ["Targets", (one) => (one.targets || []).map((target) => `${target.target} (${target.breaker})`).join(", ")], ["Why", (one) => one.reason]]} />
    <h2>Check the routing file</h2>
    <form onSubmit=${check}><${Field} label="Its text; left empty, the service's own file as it is on the disk"><textarea id="routing-file" rows="6" value=${file} onInput=${(event) => setFile(event.target.value)} /><//><button>Check</button></form>
    ${checked && html`<article id="checked" role="status">${checked.ok ? `No fault: ${checked.models.length} names, ${checked.providers.length} providers` : html`<ul>${checked.faults.map((fault) => html`<li key=${fault}><code>${fault}</code></li>`)}</ul>`}</article>`}</section>`;
}

const KEPT = 120;

export function Live() {
  const [points, setPoints] = useState([]);
  const [models, setModels] = useState([]);
  const [error, setError] = useState(null);
  useEvery(2, async () => {
    try {
      const [summary, ready] = await Promise.all([get("/v1/summary"), get("/ready", { accept: [503] })]);
      const sum = (name) => (summary.values[name] || []).reduce((total, one) => total + one.value, 0);
      const point = { at: summary.at, requests: sum("genai_http_requests_total") || sum("genai_requests_total"), tokens: sum("genai_tokens_total"), lag: sum("genai_event_loop_lag_seconds") * 1000, memory: sum("process_resident_memory_bytes") / 1e6 };
      setPoints((old) => [...old.slice(-KEPT), point]);
      setModels(ready.models || []);
      setError(null);
    } catch (problem) {
      setError(problem);
    }
  });
  const rate = (name) => points.slice(1).map((point, i) => Math.max(0, point[name] - points[i][name]) / Math.max(0.001, point.at - points[i].at));
  const at = points.slice(1).map((point) => point.at);
  return html`<section><h1>Live</h1><${Notice} error=${error} />
    ${at.length > 0 && html`<div class="columns">
      <${Plot} title="A second" labels=${["tokens/s"]} data=${[at, rate("tokens")]} />
      <${Plot} title="A second" labels=${["requests/s"]} data=${[at, rate("requests")]} />
      <${Plot} title="Event loop" labels=${["longest delay, ms"]} data=${[at, points.slice(1).map((one) => one.lag)]} />
      <${Plot} title="Memory" labels=${["MB"]} data=${[at, points.slice(1).map((one) => one.memory)]} /></div>`}
    <${Table} caption="Slots" rows=${models.map((one) => ({ key: one.route, ...one }))} columns=${[
      ["Model", (one) => one.name], ["State", (one) => one.status.replace("_", " ")], ["Slots", (one) => one.details.slots ?? "-"], ["Running", (one) => one.details.running ?? "-"], ["Waiting", (one) => one.details.waiting ?? "-"], ["Engine", (one) => [one.details.engine, one.details.kernels, one.details.precision].filter(Boolean).join(", ")]]} /></section>`;
}
