// Chat with one model, or one prompt to several at once.
import { useEffect, useRef, useState } from "preact/hooks";
import { get, key, stream } from "./api.js";
import { conversations, forget, keep } from "./history.js";
import { Field, html, Markdown, Notice, number, save, useLoaded } from "./ui.js";

const loadModels = () => get("/v1/models").then((list) => list.data.filter((model) => model.owned_by !== "embedder"));

/** Ask a model, and tell `onPart` the answer as it grows; resolves with the whole answer and its receipt. */
export async function ask({ model, messages, parameters, signal, onPart }) {
  const answer = { text: "", reasoning: "", calls: [], receipt: {}, finish: "" };
  const began = performance.now();
  let first = 0;
  const body = { model, messages, stream: true, stream_options: { include_usage: true }, ...parameters };
  const onEvent = (type, data) => {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw Object.assign(new Error(chunk.error.message), { code: chunk.error.code });
    if (chunk.usage) answer.receipt.usage = chunk.usage;
    const choice = chunk.choices && chunk.choices[0];
    if (!choice) return;
    const delta = choice.delta || {};
    if ((delta.content || delta.reasoning_content) && !first) first = performance.now();
    answer.text += delta.content || "";
    answer.reasoning += delta.reasoning_content || "";
    for (const part of delta.tool_calls || []) {
      const call = (answer.calls[part.index] ||= { name: "", arguments: "" });
      call.name += (part.function && part.function.name) || "";
      call.arguments += (part.function && part.function.arguments) || "";
    }
    answer.finish = choice.finish_reason || answer.finish;
    onPart(answer);
  };
  const onHeaders = (headers) => {
    for (const name of ["X-Model", "X-Provider", "X-Attempts", "X-Queue-Ms", "X-First-Token-Ms", "X-Cache", "X-Cost-USD", "X-Data-Boundary"]) {
      const value = headers.get(name);
      if (value !== null) answer.receipt[name] = value;
    }
  };
  await stream("/v1/chat/completions", body, { signal, onHeaders, onEvent });
  if (!answer.finish) throw new Error("The answer was cut off");
  const seconds = (performance.now() - began) / 1000;
  answer.receipt.seconds = seconds;
  answer.receipt.first = first ? (first - began) / 1000 : seconds;
  return answer;
}

export function Receipt({ receipt }) {
  const usage = receipt.usage || {};
  const rate = usage.completion_tokens && usage.completion_tokens / Math.max(0.001, receipt.seconds - receipt.first);
  const facts = [
    ["answered by", [receipt["X-Provider"], receipt["X-Model"]].filter(Boolean).join(" / ")],
    ["attempts", receipt["X-Attempts"]],
    ["cache", receipt["X-Cache"]],
    ["queue", receipt["X-Queue-Ms"] && `${receipt["X-Queue-Ms"]} ms`],
    ["first token", receipt.first && `${number(receipt.first)} s`],
    ["whole", receipt.seconds && `${number(receipt.seconds)} s`],
    ["speed", rate && `${number(rate, 1)} tokens/s`],
    ["tokens", usage.total_tokens && `${usage.prompt_tokens} + ${usage.completion_tokens}`],
    ["cost", receipt["X-Cost-USD"] && `$${receipt["X-Cost-USD"]}`],
    ["boundary", receipt["X-Data-Boundary"]],
  ].filter(([, value]) => value);
  return html`<dl class="receipt" aria-label="Receipt">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

export function Answer({ answer }) {
  return html`<div class="answer">
    ${answer.reasoning && html`<details><summary>Reasoning</summary><div class="plain">${answer.reasoning}</div></details>`}
    <${Markdown} text=${answer.text} />
    ${answer.calls.map((call) => html`<pre class="call">${call.name}(${call.arguments})</pre>`)}
    ${answer.receipt.seconds && html`<${Receipt} receipt=${answer.receipt} />`}
  </div>`;
}

function copies(body) {
  const json = JSON.stringify(body);
  const url = `${location.origin}/v1/chat/completions`;
  const bearer = key.value ? "$GENAI_API_KEY" : "";
  return {
    curl: `curl ${url} -H 'Content-Type: application/json'${bearer && ` -H "Authorization: Bearer ${bearer}"`} -d '${json.replaceAll("'", "'\\''")}'`,
    Python: `import os\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key=os.environ.get("GENAI_API_KEY", "none"))\nanswer = client.chat.completions.create(**${python(body)})\nprint(answer.choices[0].message.content)`,
    PowerShell: `$body = @'\n${json.replaceAll("\n'@", "\n '@")}\n'@\nInvoke-RestMethod -Uri "${url}" -Method Post -ContentType "application/json"${bearer && ' -Headers @{ Authorization = "Bearer $env:GENAI_API_KEY" }'} -Body $body`,
  };
}

function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${python(v)}`).join(", ")}}`;
  return JSON.stringify(value);
}

function Parameters({ value, set }) {
  const change = (name, type) => (event) => {
    const raw = event.target.value;
    const next = { ...value };
    if (raw === "") delete next[name];
    else next[name] = type === "number" ? Number(raw) : raw;
    set(next);
  };
  return html`<details class="parameters"><summary>Parameters</summary>
    <${Field} label="System prompt"><textarea rows="2" value=${value.system || ""} onInput=${change("system")} /><//>
    <div class="row">
      <${Field} label="Temperature"><input type="number" min="0" max="2" step="0.1" value=${value.temperature ?? ""} onInput=${change("temperature", "number")} /><//>
      <${Field} label="Top p"><input type="number" min="0" max="1" step="0.05" value=${value.top_p ?? ""} onInput=${change("top_p", "number")} /><//>
      <${Field} label="Most tokens"><input type="number" min="1" step="1" value=${value.max_tokens ?? ""} onInput=${change("max_tokens", "number")} /><//>
    </div></details>`;
}

function split(parameters, messages) {
  const { system, ...rest } = parameters;
  return { messages: [...(system ? [{ role: "system", content: system }] : []), ...messages], parameters: rest };
}

export function ModelSelect({ models, value, set, label = "Model" }) {
  return html`<${Field} label=${label}><select value=${value} onChange=${(event) => set(event.target.value)}>
    ${models.map((model) => html`<option value=${model.id} key=${model.id}>${model.id}${model.status === "ready" ? "" : ` (${model.status.replace("_", " ")})`}</option>`)}
  </select><//>`;
}

function best(models) {
  // an upstream that was never asked may be ready, too
  const ready = ["ready", "unknown"].flatMap((status) => models.filter((model) => model.status === status));
  return ((ready.find((model) => model.owned_by === "local") || ready[0] || models[0]) || {}).id || "";
}

export function Chat() {
  const [models, modelsError] = useLoaded(loadModels);
  const [model, setModel] = useState("");
  const [parameters, setParameters] = useState({});
  const [turns, setTurns] = useState([]);
  const [id, setId] = useState(() => crypto.randomUUID());
  const [draft, setDraft] = useState("");
  const [running, setRunning] = useState(null);
  const [error, setError] = useState(null);
  const [past, setPast] = useState([]);
  const end = useRef();
  const chosen = model || (models ? best(models) : "");
  useEffect(() => { conversations().then(setPast); }, []);
  useEffect(() => { end.current && end.current.scrollIntoView({ block: "nearest" }); }, [turns]);

  const messagesOf = (list) => list.flatMap((turn) => [{ role: "user", content: turn.prompt }, ...(turn.answer && turn.answer.text ? [{ role: "assistant", content: turn.answer.text }] : [])]);

  async function send(prompt, before) {
    const abort = new AbortController();
    setRunning(abort);
    setError(null);
    const base = [...before, { prompt, answer: null }];
    setTurns(base);
    let shown = null, frame = 0;
    const show = (answer) => {
      shown = { ...answer, calls: [...answer.calls] };
      frame ||= requestAnimationFrame(() => { frame = 0; setTurns([...before, { prompt, answer: shown }]); });
    };
    try {
      const asked = split(parameters, messagesOf(base));
      const answer = await ask({ model: chosen, ...asked, signal: abort.signal, onPart: show });
      shown = answer;
    } catch (problem) {
      if (problem.name !== "AbortError") setError(problem);
    }
    cancelAnimationFrame(frame);
    const whole = [...before, { prompt, answer: shown }];
    setTurns(whole);
    setRunning(null);
    if (shown) {
      await keep({ id, at: Date.now(), title: whole[0].prompt.slice(0, 60), model: chosen, parameters, turns: whole });
      setPast(await conversations());
    }
  }

  function submit(event) {
    event.preventDefault();
    const prompt = draft.trim();
    if (!prompt || running || !chosen) return;
    setDraft("");
    send(prompt, turns);
  }

  function again(index, prompt) { send(prompt ?? turns[index].prompt, turns.slice(0, index)); }

  function open(one) {
    setId(one.id); setTurns(one.turns); setModel(one.model); setParameters(one.parameters); setError(null);
  }

  const body = { model: chosen, ...split(parameters, messagesOf(turns)).parameters, messages: split(parameters, messagesOf(turns)).messages };
  return html`<div class="chat">
    <aside aria-label="Conversations">
      <button type="button" onClick=${() => { setId(crypto.randomUUID()); setTurns([]); setError(null); }}>New conversation</button>
      <ul class="past">${past.map((one) => html`<li key=${one.id}>
        <button type="button" class="link" aria-current=${one.id === id} onClick=${() => open(one)}>${one.title}</button>
        <button type="button" class="link" aria-label=${`Delete ${one.title}`} onClick=${async () => { await forget(one.id); setPast(await conversations()); }}>×</button></li>`)}</ul>
      ${past.length > 0 && html`<button type="button" class="link" onClick=${() => save("conversations.json", "application/json", JSON.stringify(past, null, 2))}>Export all</button>`}
    </aside>
    <section aria-label="Conversation">
      <h1>Chat</h1>
      <${Notice} error=${modelsError} />
      ${models && html`<${ModelSelect} models=${models} value=${chosen} set=${setModel} />`}
      <${Parameters} value=${parameters} set=${setParameters} />
      <div class="turns" aria-live="polite" aria-busy=${!!running}>
        ${turns.map((turn, index) => html`<article key=${index}>
          <div class="prompt plain">${turn.prompt}</div>
          ${turn.answer ? html`<${Answer} answer=${turn.answer} />` : html`<p class="quiet">${running && index === turns.length - 1 ? "Waiting for the first token" : ""}</p>`}
          ${!running && html`<div class="actions">
            <button type="button" class="link" onClick=${() => again(index)}>Regenerate</button>
            <button type="button" class="link" onClick=${() => { setDraft(turn.prompt); setTurns(turns.slice(0, index)); }}>Edit</button>
          </div>`}
        </article>`)}
        <div ref=${end} />
      </div>
      <${Notice} error=${error} />
      <form onSubmit=${submit}>
        <${Field} label="Message"><textarea id="message" rows="3" value=${draft} onInput=${(event) => setDraft(event.target.value)}
          onKeyDown=${(event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && submit(event)} /><//>
        <div class="row">
          ${running ? html`<button type="button" id="stop" onClick=${() => running.abort()}>Stop</button>` : html`<button id="send" disabled=${!chosen}>Send</button>`}
          ${turns.length > 0 && html`<span class="copies">Copy as ${Object.entries(copies(body)).map(([name, code]) => html` <button type="button" class="link" onClick=${() => navigator.clipboard.writeText(code)}>${name}</button>`)}</span>`}
        </div>
      </form>
    </section>
  </div>`;
}

export function Compare() {
  const [models, error] = useLoaded(loadModels);
  const [chosen, setChosen] = useState([]);
  const [prompt, setPrompt] = useState("");
  const [results, setResults] = useState({});
  const [running, setRunning] = useState(null);
  const names = chosen.length || !models ? chosen : [best(models)].filter(Boolean);
  const toggle = (name) => setChosen(names.includes(name) ? names.filter((one) => one !== name) : [...names, name]);

  async function run(event) {
    event.preventDefault();
    if (!prompt.trim() || !names.length) return;
    const abort = new AbortController();
    setRunning(abort);
    setResults({});
    const put = (name, value) => setResults((old) => ({ ...old, [name]: value }));
    await Promise.all(names.map((name) =>
      ask({ model: name, messages: [{ role: "user", content: prompt }], parameters: {}, signal: abort.signal, onPart: (answer) => put(name, { answer: { ...answer } }) })
        .then((answer) => put(name, { answer }), (problem) => problem.name !== "AbortError" && put(name, { error: problem }))));
    setRunning(null);
  }

  return html`<section><h1>Compare</h1><p class="quiet">One prompt, several models at once.</p>
    <${Notice} error=${error} />
    <form onSubmit=${run}>
      <fieldset><legend>Models</legend>${(models || []).map((model) => html`<label class="check" key=${model.id}><input type="checkbox" checked=${names.includes(model.id)} onChange=${() => toggle(model.id)} /> ${model.id} <small>${model.status.replace("_", " ")}</small></label>`)}</fieldset>
      <${Field} label="Prompt"><textarea rows="3" value=${prompt} onInput=${(event) => setPrompt(event.target.value)} /><//>
      ${running ? html`<button type="button" onClick=${() => running.abort()}>Stop</button>` : html`<button disabled=${!names.length}>Ask all</button>`}
    </form>
    <div class="columns">${names.filter((name) => results[name]).map((name) => html`<article key=${name}><h2>${name}</h2>
      ${results[name].error ? html`<${Notice} error=${results[name].error} />` : html`<${Answer} answer=${results[name].answer} />`}</article>`)}</div></section>`;
}
