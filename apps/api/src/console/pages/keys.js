// Keys: made (each is shown once), rotated, revoked; their limits and what is left of their budgets.
import { useRef, useState } from "preact/hooks";
import { get, post, remove } from "../static/api.js";
import { allOr, Copy, dollars, Field, html, Notice, number, State, Table, useLoaded, when } from "../static/ui.js";

const TERMS = [
  ["name", "Name", "text", "Whose it is, or what for"],
  ["models", "Models", "text", "Patterns, by commas: local, gpt-4o*. Empty: all"],
  ["routes", "Routes", "text", "Patterns, by commas: /v1/*. Empty: all"],
  ["rpm", "Requests a minute", "number", "Empty: the service's own limit"],
  ["tpm", "Tokens a minute", "number", "Empty: no limit"],
  ["budget_usd", "Budget", "text", "US dollars a day or month: 5/month"],
  ["expires", "Expires in", "text", "90d, 12h. Empty: never"],
];
const LISTS = ["models", "routes"];

function Left({ of: one }) {
  if (one.budget_limit_usd === null) return "no budget";
  return html`<meter min="0" max=${one.budget_limit_usd} low=${one.budget_limit_usd * 0.8} high=${one.budget_limit_usd * 0.95} optimum="0" value=${one.budget_limit_usd - one.budget_left_usd} aria-label=${`Budget of ${one.name} spent`} /> <span class="nowrap">${dollars(one.budget_left_usd)} left of $${one.budget_usd}</span>`;
}

export function Keys({ me }) {
  const [keys, error, reload] = useLoaded(() => get("/admin/keys"));
  const [terms, setTerms] = useState({});
  const [made, setMade] = useState(null);
  const [problem, setProblem] = useState(null);
  const [ended, setEnded] = useState(false);
  const [asked, setAsked] = useState(null);
  const form = useRef();
  const done = (work) => work.then((value) => { setProblem(null); setAsked(null); reload(); return value; }, setProblem);
  function create(event) {
    event.preventDefault();
    const body = { admin: !!terms.admin };
    for (const [name, , type] of TERMS) if (terms[name]) body[name] = LISTS.includes(name) ? terms[name].split(",").map((one) => one.trim()).filter(Boolean) : type === "number" ? Number(terms[name]) : terms[name];
    done(post("/admin/keys", body)).then((value) => { if (value) { setMade(value); setTerms({}); form.current.open = false; } });
  }
  const all = (keys && keys.data) || [];
  const live = all.filter((one) => one.status === "live");
  const actions = (one) => one.status === "live" && (asked && asked.id === one.id
    ? html`<span class="nowrap">Void at once. <button type="button" class="danger confirm" onClick=${() => done(asked.what === "Rotate" ? post(`/admin/keys/${one.id}/rotate`) : remove(`/admin/keys/${one.id}`)).then((value) => value && value.key && setMade(value))}>${asked.what}</button> <button type="button" class="link" onClick=${() => setAsked(null)}>Keep</button></span>`
    : html`<button type="button" class="link rotate" aria-label=${`Rotate ${one.name}`} onClick=${() => setAsked({ id: one.id, what: "Rotate" })}>Rotate</button> <button type="button" class="link bad revoke" aria-label=${`Revoke ${one.name}`} onClick=${() => setAsked({ id: one.id, what: "Revoke" })}>Revoke</button>`);
  return html`<section><h1>Keys</h1><${Notice} error=${error} /><${Notice} error=${problem} />
    ${made && html`<div class="notice made" role="status"><b>The key of ${made.name || made.id}</b>, shown this once:<br /><code id="made">${made.key}</code> <${Copy} text=${() => made.key} /> <button type="button" class="link" onClick=${() => setMade(null)}>Hide</button></div>`}
    <details class="card" ref=${form}><summary id="new-key">Make a key</summary><form onSubmit=${create}><div class="grid">${TERMS.map(([name, label, type, help]) => html`<${Field} label=${label} help=${help}><input name=${name} type=${type} min=${type === "number" ? 1 : undefined} required=${name === "name"} autocomplete="off" value=${terms[name] || ""} onInput=${(event) => setTerms({ ...terms, [name]: event.target.value })} /><//>`)}</div>
      <label class="check"><input type="checkbox" checked=${!!terms.admin} onChange=${(event) => setTerms({ ...terms, admin: event.target.checked })} /> Admin: may make keys and see everybody's usage</label>
      <div class="row"><button id="make">Make the key</button></div></form></details>
    <div class="row"><label class="check"><input type="checkbox" checked=${ended} onChange=${(event) => setEnded(event.target.checked)} /> Show revoked and expired keys (${all.length - live.length})</label></div>
    <${Table} caption="Keys" rows=${(ended ? all : live).map((one) => ({ ...one, key: one.id }))} empty=${keys ? "No key is live." : "Asking the service."} columns=${[
      ["Name", (one) => html`<b>${one.name || "-"}</b> ${me && me.key_id === one.id && html`<small>(this one)</small>`}<br /><code>${one.prefix}</code>`], ["State", (one) => html`<${State} state=${one.status} />${one.admin ? html`<br /><small>admin</small>` : ""}`],
      ["May use", (one) => html`${allOr("models", one.models)}<br /><small>${allOr("routes", one.routes)}${one.ip.length > 0 && `; from ${one.ip.join(", ")}`}</small>`], ["Limits a minute", (one) => html`${one.rpm ? `${number(one.rpm)} requests` : ""}${one.rpm && one.tpm ? html`<br />` : ""}${one.tpm ? `${number(one.tpm)} tokens` : ""}${!one.rpm && !one.tpm ? "-" : ""}`],
      ["Budget", (one) => html`<${Left} of=${one} />`], ["Expires", (one) => html`<span class="nowrap">${one.expires_at ? when(one.expires_at) : "never"}</span>`], ["", actions, "actions"]]} /></section>`;
}
