// A conversation with one model, and those before it.
import { Component } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Answer, AnswerView, ask, best, loadModels, ModelSelect } from "../static/answer.js";
import { key } from "../static/api.js";
import { conversation, exported, forget, keep, titles } from "../static/history.js";
import { Copy, Field, html, Notice, save, useLoaded } from "../static/ui.js";

const WIDE = matchMedia("(min-width: 48rem)");
const IDEAS = ["What is Python?", "Explain a hash table in three sentences.", "Write a haiku about rain."];

function codeOf(body) {
  const json = JSON.stringify(body), url = `${location.origin}/v1/chat/completions`, bearer = !!key.value;
  return {
    curl: `curl ${url} -H 'Content-Type: application/json'${bearer ? ' -H "Authorization: Bearer $GENAI_API_KEY"' : ""} -d '${json.replaceAll("'", "'\\''")}'`,
    Python: `import os\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key=os.environ.get("GENAI_API_KEY", "none"))\nanswer = client.chat.completions.create(**${python(body)})\nprint(answer.choices[0].message.content)`,
    PowerShell: `$body = @'\n${json}\n'@\nInvoke-RestMethod -Uri "${url}" -Method Post -ContentType "application/json"${bearer ? ' -Headers @{ Authorization = "Bearer $env:GENAI_API_KEY" }' : ""} -Body $body`,
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
    const next = { ...value, [name]: type === "number" ? Number(event.target.value) : event.target.value };
    if (event.target.value === "") delete next[name];
    set(next);
  };
  const count = Object.keys(value).length;
  return html`<details class="parameters"><summary>Parameters${count > 0 && ` (${count} set)`}</summary>
    <${Field} label="System prompt"><textarea id="system" rows="2" value=${value.system || ""} onInput=${change("system")} /><//>
    <div class="grid">
      <${Field} label="Temperature" help="0 to 2"><input type="number" min="0" max="2" step="0.1" value=${value.temperature ?? ""} onInput=${change("temperature", "number")} /><//>
      <${Field} label="Top p" help="0 to 1"><input type="number" min="0" max="1" step="0.05" value=${value.top_p ?? ""} onInput=${change("top_p", "number")} /><//>
      <${Field} label="Most tokens" help="Left empty: the model's own limit"><input type="number" min="1" step="1" value=${value.max_tokens ?? ""} onInput=${change("max_tokens", "number")} /><//>
    </div></details>`;
}

function History({ past, id, open, start, changed }) {
  return html`<aside aria-label="Conversations"><details open=${WIDE.matches}><summary>Conversations (${past.length})</summary>
    <button type="button" class="second" onClick=${start}>New conversation</button>
    <ul class="past">${past.map((one) => html`<li key=${one.id}>
      <button type="button" class="link" aria-current=${one.id === id ? "true" : undefined} onClick=${() => open(one.id)}>${one.title}</button>
      <button type="button" class="link" aria-label=${`Delete ${one.title}`} onClick=${() => forget(one.id).then(changed)}>×</button></li>`)}</ul>
    ${past.length > 0 && html`<button type="button" class="link" onClick=${async () => save("conversations.json", "application/json", await exported())}>Export all</button>`}
  </details></aside>`;
}

/** A question with its answer; those that are over are not drawn again while another one streams. */
class Turn extends Component {
  shouldComponentUpdate(next) {
    return next.turn !== this.props.turn || next.busy !== this.props.busy;
  }

  render({ turn, busy, again, edit, onGrow }) {
    return html`<article class="turn"><div class="prompt plain">${turn.prompt}</div>
      <${AnswerView} answer=${turn.answer} onGrow=${onGrow} />
      ${!busy && html`<div class="actions"><${Copy} text=${() => turn.answer.text} />
        <button type="button" class="link" onClick=${again}>Regenerate</button>
        <button type="button" class="link" onClick=${edit}>Edit</button></div>`}</article>`;
  }
}

const LANGUAGES = ["curl", "Python", "PowerShell"];

function Code({ body }) {
  const [shown, setShown] = useState("");
  // a long conversation is not spelled out anew at each key of the next message
  const codes = shown ? codeOf(body()) : null;
  return html`<details class="code" onToggle=${(event) => setShown(event.target.open ? "curl" : "")}><summary>This as a program</summary>
    <div class="row" role="group" aria-label="Language">${LANGUAGES.map((name) => html`<button type="button" class="second" aria-pressed=${name === shown} onClick=${() => setShown(name)}>${name}</button>`)}<${Copy} text=${() => codeOf(body())[shown]} /></div>
    ${shown && html`<pre tabindex="0"><code>${codes[shown]}</code></pre>`}</details>`;
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
  const following = useRef(true), message = useRef();
  const chosen = model || (models ? best(models) : "");
  const changed = () => titles().then(setPast);
  useEffect(() => { changed(); }, []);
  useEffect(() => {
    const look = () => { following.current = innerHeight + scrollY >= document.documentElement.scrollHeight - 160; };
    addEventListener("scroll", look, { passive: true });
    return () => removeEventListener("scroll", look);
  }, []);
  useEffect(() => () => running && running.abort(), [running]);
  const grow = () => { if (following.current) scrollTo(0, document.documentElement.scrollHeight); };

  const bodyOf = (list) => {
    const { system, ...rest } = parameters;
    const said = list.flatMap(({ prompt, answer }) => [{ role: "user", content: prompt }, ...(answer && answer.text ? [{ role: "assistant", content: answer.text }] : [])]);
    return { messages: [...(system ? [{ role: "system", content: system }] : []), ...said], parameters: rest };
  };

  async function send(prompt, before) {
    const abort = new AbortController(), answer = new Answer(), whole = [...before, { prompt, answer }];
    following.current = true;
    setRunning(abort);
    setError(null);
    setTurns(whole);
    try {
      await ask(answer, { model: chosen, ...bodyOf(whole), signal: abort.signal });
    } catch (problem) {
      setError(problem);
    }
    setRunning(null);
    if (!answer.parts.length && !answer.calls.length && answer.finish !== "stopped") return;
    const kept = whole.map((turn) => ({ prompt: turn.prompt, answer: turn.answer.kept() }));
    const one = { id, at: Date.now(), title: whole[0].prompt.slice(0, 60), model: chosen, parameters, turns: kept };
    await keep(one).then(changed, (problem) => setError(new Error(`This browser does not keep the conversation: ${problem.message}`)));
  }

  function submit(event) {
    event.preventDefault();
    const prompt = draft.trim();
    if (!prompt || running || !chosen) return;
    setDraft("");
    send(prompt, turns);
  }

  function start() { setId(crypto.randomUUID()); setTurns([]); setError(null); }

  async function open(other) {
    const found = await conversation(other);
    if (!found) return changed();
    setId(found.id);
    setTurns(found.turns.map((turn) => ({ prompt: turn.prompt, answer: new Answer(turn.answer || {}) })));
    setModel(found.model);
    setParameters(found.parameters);
    setError(null);
  }

  const body = () => { const { messages, parameters: rest } = bodyOf(turns); return { model: chosen, ...rest, messages }; };
  return html`<div class="chat">
    <${History} past=${past} id=${id} open=${open} start=${start} changed=${changed} />
    <section aria-label="Conversation">
      <h1>Chat</h1><${Notice} error=${modelsError} />
      <div class="settings">${models && html`<${ModelSelect} models=${models} value=${chosen} set=${setModel} />`}<${Parameters} value=${parameters} set=${setParameters} /></div>
      ${turns.length === 0 && html`<div class="ideas"><p class="quiet">Nothing said yet. For example:</p>${IDEAS.map((idea) => html`<button type="button" class="second" onClick=${() => { setDraft(idea); message.current.focus(); }}>${idea}</button>`)}</div>`}
      <div class="turns" aria-live="polite" aria-busy=${!!running}>
        ${turns.map((turn, index) => html`<${Turn} key=${index} turn=${turn} busy=${!!running} onGrow=${index === turns.length - 1 ? grow : undefined}
          again=${() => send(turn.prompt, turns.slice(0, index))} edit=${() => { setDraft(turn.prompt); setTurns(turns.slice(0, index)); message.current.focus(); }} />`)}
      </div>
      <${Notice} error=${error} />
      ${turns.length > 0 && !running && html`<${Code} body=${body} />`}
      <form class="composer" onSubmit=${submit}>
        <label class="hidden" for="message">Message</label>
        <textarea id="message" ref=${message} rows="2" placeholder="Message: Enter sends, Shift+Enter starts a line" value=${draft} onInput=${(event) => setDraft(event.target.value)}
          onKeyDown=${(event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && submit(event)} />
        ${running ? html`<button type="button" id="stop" class="danger" onClick=${() => running.abort()}>Stop</button>` : html`<button id="send" disabled=${!chosen}>Send</button>`}
      </form>
    </section>
  </div>`;
}
