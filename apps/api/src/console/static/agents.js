// Agents: the list, a run step by step, the approvals that runs wait for, past runs.
import { useState } from "preact/hooks";
import { get, post, remove, stream } from "./api.js";
import { Field, html, Markdown, Notice, Table, useLoaded } from "./ui.js";

const time = (seconds) => new Date(seconds * 1000).toLocaleString();

function Step({ step }) {
  return html`<li><code>${JSON.stringify(step)}</code></li>`;
}

export function Agents() {
  const [agents, error] = useLoaded(() => get("/agents"));
  const [runs, runsError, reload] = useLoaded(() => get("/agents/runs?limit=50"));
  const [name, setName] = useState("");
  const [prompt, setPrompt] = useState("");
  const [live, setLive] = useState(null);
  const [problem, setProblem] = useState(null);
  const list = agents ? agents.agents : [];
  const chosen = name || (list[0] && list[0].name) || "";
  const waiting = runs ? runs.runs.filter((run) => run.status === "paused") : [];

  async function follow(path, body) {
    const state = { text: "", steps: [], status: "running" };
    setProblem(null);
    setLive({ ...state });
    try {
      await stream(path, body, { onEvent: (type, data) => {
        const value = type === "message" ? data : JSON.parse(data);
        if (type === "error") throw new Error(value.error.message);
        if (type === "message") state.text += data;
        else if (type === "delta") state.text += value.text;
        else if (type === "done") state.status = value.status;
        else state.steps.push({ [type]: value });
        setLive({ ...state, steps: [...state.steps] });
      } });
    } catch (failed) {
      setProblem(failed);
    }
    reload();
  }

  return html`<section><h1>Agents</h1>
    <${Notice} error=${error} />
    <${Table} caption="Agents" rows=${list.map((one) => ({ key: one.name, ...one }))} empty="No agents are declared: AGENTS_CONFIG names their file." columns=${[
      ["Agent", (one) => one.name], ["Asks", (one) => one.answers_by], ["Tools", (one) => one.tools.map((tool) => tool.name + (tool.approval ? " (approval)" : "")).join(", ")], ["What it does", (one) => one.description]]} />
    ${list.length > 0 && html`<form onSubmit=${(event) => { event.preventDefault(); prompt.trim() && follow(`/agents/${encodeURIComponent(chosen)}/run?stream=true`, { prompt }); }}>
      <${Field} label="Agent"><select value=${chosen} onChange=${(event) => setName(event.target.value)}>${list.map((one) => html`<option>${one.name}</option>`)}</select><//>
      <${Field} label="Task"><textarea id="task" rows="2" value=${prompt} onInput=${(event) => setPrompt(event.target.value)} /><//>
      <button>Run</button></form>`}
    <${Notice} error=${problem} />
    ${live && html`<article aria-live="polite"><h2>Run: ${live.status}</h2><ol class="steps">${live.steps.map((step) => html`<${Step} step=${step} />`)}</ol><${Markdown} text=${live.text} /></article>`}
    <h2>Waiting for a decision</h2>
    ${waiting.length === 0 && html`<p class="quiet">No run waits.</p>`}
    ${waiting.map((run) => html`<article key=${run.run}><b>${run.agent}</b> since ${time(run.begun_at)}
      <ul>${run.pending.map((one) => html`<li><code>${one.tool}(${JSON.stringify(one.arguments)})</code></li>`)}</ul>
      <div class="row"><button type="button" class="approve" onClick=${() => follow(`/agents/runs/${run.run}/approve?stream=true`, undefined)}>Approve</button>
      <button type="button" onClick=${() => post(`/agents/runs/${run.run}/deny`).then(reload, setProblem)}>Deny</button>
      <button type="button" class="link" onClick=${() => remove(`/agents/runs/${run.run}`).then(reload, setProblem)}>Cancel</button></div></article>`)}
    <h2>Past runs</h2><${Notice} error=${runsError} />
    <${Table} caption="Runs" rows=${((runs && runs.runs) || []).map((run) => ({ key: run.run, ...run }))} columns=${[
      ["Agent", (run) => run.agent], ["Begun", (run) => time(run.begun_at)], ["Status", (run) => run.status], ["Tokens", (run) => run.usage.total_tokens],
      ["Steps", (run) => html`<details><summary>${run.steps.length}</summary><ol>${run.steps.map((step) => html`<${Step} step=${step} />`)}</ol></details>`], ["Answer", (run) => html`<div class="plain short">${run.answer}</div>`]]} />
  </section>`;
}
