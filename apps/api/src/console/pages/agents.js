// Agents: the approvals that runs wait for, the list, a run step by step, past runs.
import { useState } from "preact/hooks";
import { get, post, remove, stream } from "../static/api.js";
import { Markdown } from "../static/markdown.js";
import { dollars, duration, Field, html, Notice, number, State, Table, useEvery, useLoaded, when } from "../static/ui.js";

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const given = (values) => Object.entries(values || {}).map(([name, value]) => `${name}: ${shown(value)}`).join(", ");

function Call({ tool, values }) {
  return html`<code class="call">${tool}(${typeof values === "string" ? values : given(values)})</code>`;
}

/** One step: what a tool was asked and gave, or what the model said. */
function Step({ step }) {
  const took = step.seconds !== undefined && html`<small>${duration(step.seconds)}</small>`;
  if (step.tool) {
    const result = step.result === undefined ? null : shown(step.result);
    return html`<li class=${step.failed ? "failed" : ""}><b>${step.decision || (step.failed ? "Tool failed" : "Tool")}</b> <${Call} tool=${step.tool} values=${step.arguments} /> ${took}${result !== null && html`<div class="plain result">${result}</div>`}</li>`;
  }
  if (step.kind === "model") {
    return html`<li><b>Model</b> ${step.model} <small>${number(step.prompt_tokens)} in, ${number(step.completion_tokens)} out</small> ${took}${step.text ? html`<div class="plain result">${step.text}</div>` : ""}</li>`;
  }
  return html`<li><b>${step.kind || "Step"}</b> <code>${given(Object.fromEntries(Object.entries(step).filter(([name]) => name !== "kind")))}</code></li>`;
}

function Steps({ steps }) {
  return html`<ol class="steps">${steps.map((step) => html`<${Step} step=${step} />`)}</ol>`;
}

function Waiting({ run, follow, done }) {
  const [reason, setReason] = useState("");
  return html`<article class="card waiting-run"><div class="row top"><h3>${run.agent} wants to call</h3><small>since ${when(run.begun_at)}</small></div>
    <ul>${run.pending.map((one) => html`<li><${Call} tool=${one.tool} values=${one.arguments} /></li>`)}</ul>
    <div class="row"><button type="button" class="approve" onClick=${() => follow(`/agents/runs/${run.run}/approve?stream=true`)}>Approve</button>
      <button type="button" class="danger deny" onClick=${() => done(post(`/agents/runs/${run.run}/deny${reason ? `?reason=${encodeURIComponent(reason)}` : ""}`))}>Deny</button>
      <input class="reason" aria-label=${`Why ${run.agent} is denied`} placeholder="Reason of a denial (optional)" value=${reason} onInput=${(event) => setReason(event.target.value)} />
      <button type="button" class="link" onClick=${() => done(remove(`/agents/runs/${run.run}`))}>Cancel the run</button></div></article>`;
}

export function Agents() {
  const [agents, error] = useLoaded(() => get("/agents"));
  const [runs, setRuns] = useState(null);
  const [runsError, setRunsError] = useState(null);
  const [older, setOlder] = useState([]);
  const [name, setName] = useState("");
  const [prompt, setPrompt] = useState("");
  const [live, setLive] = useState(null);
  const [problem, setProblem] = useState(null);
  const list = agents ? agents.agents : [];
  const chosen = name || (list[0] && list[0].name) || "";
  const listed = [...((runs && runs.runs) || []), ...older.flatMap((page) => page.runs)];
  const waiting = listed.filter((run) => run.status === "paused");
  const next = older.length ? older.at(-1).next : runs && runs.next;
  const reload = () => get("/agents/runs?limit=20").then((page) => { setRuns(page); setRunsError(null); }, setRunsError);
  useEvery(5, reload);
  const done = (work) => work.then(() => setProblem(null), setProblem).then(reload);

  async function follow(path, body) {
    const state = { text: "", steps: [], status: "running" };
    const draw = () => setLive({ ...state, steps: [...state.steps] });
    setProblem(null);
    draw();
    try {
      await stream(path, body, { onEvent: (type, data) => {
        const value = type === "message" ? data : JSON.parse(data);
        if (type === "error") throw new Error(value.error.message);
        if (type === "message") state.text += data;
        else if (type === "delta") state.text += value.text;
        else if (type === "done") state.status = value.status;
        else if (type === "tool_result") state.steps = state.steps.map((step) => (step.id === value.id ? { ...step, ...value } : step)).concat(state.steps.some((step) => step.id === value.id) ? [] : [value]);
        else if (type === "approval_required") state.status = "paused";
        else state.steps.push(value);
        draw();
      } });
    } catch (failed) {
      state.status = "failed";
      draw();
      setProblem(failed);
    }
    reload();
  }

  return html`<section><h1>Agents</h1><${Notice} error=${error} /><${Notice} error=${problem} />
    ${live && html`<article class="card run" aria-live="polite"><h2>This run <${State} state=${live.status} /></h2><${Steps} steps=${live.steps} />${live.text && html`<${Markdown} text=${live.text} />`}</article>`}
    ${waiting.length > 0 && html`<h2>Waiting for you (${waiting.length})</h2>${waiting.map((run) => html`<${Waiting} key=${run.run} run=${run} follow=${follow} done=${done} />`)}`}
    ${list.length > 0 && html`<h2>Run an agent</h2><form class="card" onSubmit=${(event) => { event.preventDefault(); prompt.trim() && follow(`/agents/${encodeURIComponent(chosen)}/run?stream=true`, { prompt }); }}>
      <div class="grid task"><${Field} label="Agent"><select id="agent" value=${chosen} onChange=${(event) => setName(event.target.value)}>${list.map((one) => html`<option value=${one.name}>${one.name}</option>`)}</select><//>
      <${Field} label="Task"><textarea id="task" rows="1" placeholder="What is 1234 * 5678?" value=${prompt} onInput=${(event) => setPrompt(event.target.value)} /><//></div>
      <div class="row"><button id="run">Run</button><span class="quiet">${(list.find((one) => one.name === chosen) || {}).description}</span></div></form>`}
    <h2>Declared agents</h2><${Table} caption="Agents" rows=${list.map((one) => ({ key: one.name, ...one }))} empty="No agents are declared: AGENTS_CONFIG names their file." columns=${[
      ["Agent", (one) => html`<b>${one.name}</b>`], ["What it does", (one) => one.description], ["Model", (one) => one.answers_by], ["Tools", (one) => one.tools.map((tool) => tool.name + (tool.approval ? " (asks you first)" : "")).join(", ") || "-"],
      ["Limits", (one) => [`${one.limits.steps} steps`, `${number(one.limits.tokens)} tokens`, one.limits.cost !== null && dollars(one.limits.cost)].filter(Boolean).join(", ")]]} />
    <h2>Past runs</h2><${Notice} error=${runsError} />
    <${Table} caption="Runs" rows=${listed.map((run) => ({ key: run.run, ...run }))} empty="No run yet." columns=${[
      ["Agent", (run) => run.agent], ["Begun", (run) => html`<span class="nowrap">${when(run.begun_at)}</span>`], ["State", (run) => html`<${State} state=${run.status} />`], ["Took", (run) => (run.ended_at ? duration(run.ended_at - run.begun_at) : "-"), "number"], ["Tokens", (run) => number(run.usage.total_tokens), "number"], ["Cost", (run) => dollars(run.usage.cost), "number"],
      ["Answer", (run) => html`${run.error ? html`<span class="bad">${run.error.message || run.outcome}</span>` : run.answer && html`<div class="plain short" tabindex="0">${run.answer}</div>`}<details><summary>${run.steps.length} ${run.steps.length === 1 ? "step" : "steps"}</summary><${Steps} steps=${run.steps} /></details>`]]} />
    ${next && html`<button type="button" class="second" onClick=${() => get(`/agents/runs?limit=20&before=${next}`).then((page) => setOlder([...older, page]), setRunsError)}>Older runs</button>`}
  </section>`;
}
