// What was used: by day, model, key and the like; and what the caller's own key may still do.
import { useState } from "preact/hooks";
import { get, text } from "../static/api.js";
import { Plot } from "../static/plot.js";
import { allOr, dollars, Field, html, Notice, number, save, Table, useLoaded } from "../static/ui.js";

const NAMES = { day: "Day", model: "Model", key: "Key", route: "Route", tenant: "Tenant", calls: "Calls", failed: "Failed", cache_hits: "From cache", prompt_tokens: "Tokens in", completion_tokens: "Tokens out", cached_tokens: "In, cached", cost_usd: "Cost", saved_usd: "Saved" };
const MONEY = ["cost_usd", "saved_usd"];
const SHOWN = ["calls", "completion_tokens", "cost_usd", "saved_usd"];
const DAY_MS = 86_400_000;
const iso = (at) => new Date(at).toISOString().slice(0, 10);

function Own({ me }) {
  const { budget } = me;
  const spent = budget && budget.spent_usd + budget.reserved_usd;
  return html`<article class="card"><h2>This key</h2><dl class="facts wide">
    <div><dt>Name</dt><dd>${me.name || me.key_id}</dd></div><div><dt>Models</dt><dd>${allOr("models", me.models)}</dd></div><div><dt>Routes</dt><dd>${allOr("routes", me.routes)}</dd></div>
    <div><dt>Requests a minute</dt><dd>${me.rpm ?? "no limit of its own"}</dd></div><div><dt>Tokens a minute</dt><dd>${number(me.tpm) === "-" ? "no limit of its own" : number(me.tpm)}</dd></div></dl>
    ${budget ? html`<p id="budget"><b>${dollars(budget.left_usd)} left</b> of ${dollars(budget.limit_usd)} this ${budget.period}; ${dollars(budget.spent_usd)} spent${budget.reserved_usd > 0 ? `, ${dollars(budget.reserved_usd)} held by calls under way` : ""}.</p>
      <meter min="0" max=${budget.limit_usd} low=${budget.limit_usd * 0.8} high=${budget.limit_usd * 0.95} optimum="0" value=${spent} aria-label="Budget spent" />` : html`<p class="quiet">It has no budget.</p>`}</article>`;
}

export function Usage({ me }) {
  const operator = me && me.authenticated && me.admin;
  const [groups, setGroups] = useState("day,model");
  const [days, setDays] = useState(30);
  const [problem, setProblem] = useState(null);
  const path = operator ? "/admin/usage" : "/v1/usage";
  const question = `${path}?group_by=${groups}&from=${iso(Date.now() - (days - 1) * DAY_MS)}&limit=1000`;
  const [report, error] = useLoaded(() => get(question), [question]);
  const [byDay] = useLoaded(() => get(question.replace(groups, "day")), [question]);
  const [keys] = useLoaded(() => (operator ? get("/admin/keys") : Promise.resolve({ data: [] })), [operator]);
  const keyNames = new Map(((keys && keys.data) || []).map((one) => [one.id, one.name]));
  const rows = report ? report.data : [];
  const columns = report ? [...report.group_by, ...Object.keys(report.total)] : [];
  const sums = new Map(((byDay && byDay.data) || []).map((row) => [row.day, row]));
  const span = [...Array(days).keys()].map((i) => iso(Date.now() - (days - 1 - i) * DAY_MS));
  const first = span.findIndex((day) => sums.has(day));
  const shown = first < 0 ? [] : span.slice(Math.max(0, Math.min(first, days - 14)));
  const at = shown.map((day) => Date.parse(day) / 1000);
  const cell = (name) => (row) => (MONEY.includes(name) ? dollars(row[name]) : typeof row[name] === "number" ? number(row[name]) : name === "key" ? keyNames.get(row.key) || row.key || (row.key === null ? "no key" : "") : row[name] ?? "-");
  const all = report && Object.keys(report.total).length ? { ...Object.fromEntries(report.group_by.map((name, i) => [name, i ? "" : "All"])), ...report.total } : null;
  return html`<section><h1>Usage</h1><${Notice} error=${error} /><${Notice} error=${problem} />
    ${me && me.authenticated && html`<${Own} me=${me} />`}
    ${at.length > 0 && html`<div class="columns plots">${SHOWN.filter((name) => shown.some((day) => (sums.get(day) || {})[name])).map((name) => html`<${Plot} key=${name + days} days=${true} title=${`${NAMES[name]}${MONEY.includes(name) ? ", US dollars" : ""} a day; today:`} labels=${[""]} data=${[at, shown.map((day) => (sums.get(day) || {})[name] || null)]} />`)}</div>`}
    <div class="row bottom"><${Field} label="By"><select value=${groups} onChange=${(event) => setGroups(event.target.value)}>${[["day,model", "day and model"], ["day,key", "day and key"], ["day,route", "day and route"], ["day", "day"], ["model", "model"], ["key", "key"], ...(operator ? [["tenant", "tenant"]] : [])].map(([value, label]) => html`<option value=${value}>${label}</option>`)}</select><//>
      <${Field} label="Of the last"><select value=${days} onChange=${(event) => setDays(Number(event.target.value))}>${[7, 30, 90, 365].map((one) => html`<option value=${one}>${one} days</option>`)}</select><//>
      <button type="button" class="second" onClick=${() => text(`${question}&format=csv`, "text/csv").then((csv) => save("usage.csv", "text/csv", csv), setProblem)}>Save as CSV</button></div>
    <${Table} caption="Usage" rows=${rows.map((row, i) => ({ key: i, ...row }))} total=${rows.length > 1 ? all : null} empty=${report ? "No calls in these days." : "Asking the service."} columns=${columns.map((name) => [NAMES[name] || name, cell(name), report.group_by.includes(name) ? "nowrap" : "number"])} />
    ${report && report.next_offset !== null && html`<p class="quiet">These are the first ${rows.length} rows. The CSV of <code>${path}</code> has the others with <code>offset</code>.</p>`}
  </section>`;
}
