// One prompt to several models at once, and how their answers differ.
import { useState } from "preact/hooks";
import { Answer, AnswerView, ask, best, loadModels, rate } from "../static/answer.js";
import { dollars, duration, Field, html, Notice, number, State, Table, useLoaded } from "../static/ui.js";

const MOST_WORDS = 800;

/** The words of `text` beside those of `other`: [kind, words], kind "same", "ins" or "del". By their longest common sequence. */
export function differences(other, text) {
  const [a, b] = [other, text].map((one) => one.split(/\s+/).filter(Boolean).slice(0, MOST_WORDS));
  const width = b.length + 1, longest = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      longest[i * width + j] = a[i] === b[j] ? longest[(i + 1) * width + j + 1] + 1 : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
  const runs = [];
  const put = (kind, word) => (runs.length && runs.at(-1)[0] === kind ? runs.at(-1)[1].push(word) : runs.push([kind, [word]]));
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (i < a.length && j < b.length && a[i] === b[j]) { put("same", a[i]); i++; j++; }
    else if (j === b.length || (i < a.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) put("del", a[i++]);
    else put("ins", b[j++]);
  }
  return runs.map(([kind, words]) => [kind, words.join(" ")]);
}

function Differences({ names, texts }) {
  const [first, ...others] = names;
  return html`<h2>Beside ${first}</h2><p class="quiet">Words that only ${first} has are struck through; words that it does not have are underlined.</p>
    ${others.map((name) => html`<article class="card" key=${name}><h3>${name}</h3><p class="diff">${differences(texts[first], texts[name]).map(([kind, words]) => (kind === "same" ? `${words} ` : kind === "ins" ? html`<ins>${words}</ins> ` : html`<del>${words}</del> `))}</p></article>`)}`;
}

export function Compare() {
  const [models, error] = useLoaded(loadModels);
  const [chosen, setChosen] = useState(null);
  const [prompt, setPrompt] = useState("");
  const [results, setResults] = useState([]);
  const [running, setRunning] = useState(null);
  const [beside, setBeside] = useState(false);
  const names = chosen || (models ? [best(models)].filter(Boolean) : []);
  const toggle = (name) => setChosen((old) => { const now = old || names; return now.includes(name) ? now.filter((one) => one !== name) : [...now, name]; });

  async function run(event) {
    event.preventDefault();
    if (!prompt.trim() || !names.length) return;
    const abort = new AbortController();
    const begun = names.map((name) => ({ name, answer: new Answer(), error: null }));
    setRunning(abort);
    setBeside(false);
    setResults(begun);
    const messages = [{ role: "user", content: prompt }];
    await Promise.all(begun.map((one) => ask(one.answer, { model: one.name, messages, parameters: {}, signal: abort.signal })
      .catch((problem) => setResults((old) => old.map((other) => (other.answer === one.answer ? { ...other, error: problem } : other))))));
    setRunning(null);
  }

  const over = running ? [] : results.filter((one) => !one.error);
  const least = (value) => Math.min(...over.map((one) => value(one.answer.receipt)).filter((one) => one !== null && one !== undefined && !Number.isNaN(one)));
  const marked = (value, show, most = false) => ({ answer }) => {
    const own = value(answer.receipt);
    const known = own !== null && own !== undefined && !Number.isNaN(own);
    const wins = known && over.length > 1 && own === (most ? -least((receipt) => -value(receipt)) : least(value));
    return wins ? html`<b class="best" title="The best of these">${show(own)}</b>` : show(known ? own : null);
  };
  const cost = (receipt) => (receipt.cost === undefined || receipt.cost === null ? null : Number(receipt.cost));
  return html`<section><h1>Compare</h1><p class="quiet">One prompt, several models at once: their words, time and cost side by side.</p>
    <${Notice} error=${error} />
    <form onSubmit=${run}>
      <fieldset><legend>Models</legend><div class="checks">${(models || []).map((model) => html`<label class="check" key=${model.id}><input type="checkbox" value=${model.id} checked=${names.includes(model.id)} onChange=${() => toggle(model.id)} /> ${model.id} ${model.status !== "ready" && html`<${State} state=${model.status} />`}</label>`)}</div></fieldset>
      <${Field} label="Prompt"><textarea id="prompt" rows="2" value=${prompt} onInput=${(event) => setPrompt(event.target.value)} /><//>
      <div class="row">${running ? html`<button type="button" class="danger" onClick=${() => running.abort()}>Stop</button>` : html`<button id="ask" disabled=${!names.length}>${names.length > 1 ? `Ask ${names.length} models` : "Ask"}</button>`}</div>
    </form>
    <div class="columns">${results.map((one) => html`<article class="card" key=${one.name}><h2>${one.name}</h2>
      ${one.error ? html`<${Notice} error=${one.error} />` : html`<${AnswerView} answer=${one.answer} />`}</article>`)}</div>
    ${over.length > 1 && html`<h2>Differences</h2><${Table} caption="Differences" rows=${over.map((one) => ({ key: one.name, ...one }))} columns=${[
      ["Model", (one) => one.name],
      ["First token", marked((receipt) => receipt.first, duration), "number"],
      ["Whole", marked((receipt) => receipt.seconds, duration), "number"],
      ["Tokens a second", marked(rate, (value) => number(value, 1), true), "number"],
      ["Tokens in", ({ answer }) => number(answer.receipt.usage && answer.receipt.usage.prompt_tokens), "number"],
      ["Tokens out", ({ answer }) => number(answer.receipt.usage && answer.receipt.usage.completion_tokens), "number"],
      ["Cost", marked(cost, dollars), "number"],
      ["Words", ({ answer }) => number(answer.text.split(/\s+/).filter(Boolean).length), "number"]]} />
      <div class="row"><button type="button" class="second" aria-expanded=${beside} onClick=${() => setBeside(!beside)}>${beside ? "Hide" : "Show"} the difference of the texts</button></div>
      ${beside && html`<${Differences} names=${over.map((one) => one.name)} texts=${Object.fromEntries(over.map((one) => [one.name, one.answer.text]))} />`}`}</section>`;
}
