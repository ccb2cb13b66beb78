// Collections of documents: files in, search with its scores, answers whose citations open at their place.
import { useState } from "preact/hooks";
import { call, get, post, remove } from "./api.js";
import { Field, html, Markdown, Notice, number, Table, useLoaded } from "./ui.js";

const base = (shared) => (shared ? "/rag/shared" : "/rag/collections");
const ENDED = ["done", "failed"];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The passage's text with its span marked, as text nodes. */
function Place({ citation, passages }) {
  const found = passages.find((passage) => passage.span[0] <= citation.span[0] && citation.span[1] <= passage.span[1]);
  const text = found ? found.text : citation.quote;
  const letters = [...text];
  const from = found ? Math.max(0, citation.span[0] - found.span[0]) : 0;
  const to = found ? Math.min(letters.length, citation.span[1] - found.span[0]) : letters.length;
  return html`<blockquote class="plain">${letters.slice(0, from).join("")}<mark id="cited">${letters.slice(from, to).join("")}</mark>${letters.slice(to).join("")}</blockquote>`;
}

export function Documents() {
  const [shared, setShared] = useState(false);
  const [name, setName] = useState("documents");
  const [collections, error, reload] = useLoaded(() => get(base(shared)), [shared]);
  const [documents, documentsError, reloadDocuments] = useLoaded(
    () => (collections && collections.collections.some((one) => one.name === name) ? get(`${base(shared)}/${encodeURIComponent(name)}/documents`) : Promise.resolve({ documents: [] })),
    [name, shared, collections]);
  const [job, setJob] = useState(null);
  const [jobError, setJobError] = useState(null);
  const [question, setQuestion] = useState("");
  const [passages, setPassages] = useState(null);
  const [answer, setAnswer] = useState(null);
  const [askError, setAskError] = useState(null);
  const [opened, setOpened] = useState(null);
  const [busy, setBusy] = useState(false);
  const place = `${base(shared)}/${encodeURIComponent(name)}`;

  async function upload(files) {
    if (!files.length) return;
    setJobError(null);
    try {
      const form = new FormData();
      for (const file of files) form.append("files", file, file.name);
      const accepted = await call("POST", `${place}/documents`, form);
      for (;;) {
        const state = await get(`/rag/jobs/${accepted.job}`);
        setJob(state);
        if (ENDED.includes(state.status)) break;
        await pause(400);
      }
      reload();
      reloadDocuments();
    } catch (problem) {
      setJobError(problem);
    }
  }

  async function run(event, kind) {
    event.preventDefault();
    if (!question.trim()) return;
    setBusy(true); setAskError(null); setAnswer(null); setPassages(null); setOpened(null);
    try {
      if (kind === "search") setPassages((await post(`${place}/query`, { query: question, top_k: 8 })).passages);
      else setAnswer(await post(`${place}/generate`, { prompt: question }));
    } catch (problem) {
      setAskError(problem);
    }
    setBusy(false);
  }

  async function openCitation(citation) {
    const found = await get(`${place}/documents/${citation.document}/passages?limit=1000`).catch(() => ({ passages: [] }));
    setOpened({ citation, passages: found.passages });
  }

  const listed = collections ? collections.collections : [];
  return html`<section><h1>Documents</h1>
    <${Notice} error=${error} />
    <div class="row top">
      <${Field} label="Whose"><select value=${shared ? "shared" : "mine"} onChange=${(event) => setShared(event.target.value === "shared")}><option value="mine">Mine</option><option value="shared">Shared</option></select><//>
      <${Field} label="Collection" help="A new name makes a new collection"><input list="collections" value=${name} onChange=${(event) => setName(event.target.value)} /><datalist id="collections">${listed.map((one) => html`<option value=${one.name} />`)}</datalist><//>
    </div>
    <div class="drop" onDragOver=${(event) => event.preventDefault()} onDrop=${(event) => { event.preventDefault(); upload(event.dataTransfer.files); }}>
      <label>Drop files here, or <input id="files" type="file" multiple onChange=${(event) => upload(event.target.files)} /></label></div>
    <${Notice} error=${jobError} />
    ${job && html`<div role="status" class="notice"><progress max="100" value=${job.percent} aria-label="Progress" /> ${job.status}, ${job.passages} passages
      <ul>${job.files.map((file) => html`<li>${file.name}: ${file.status}${file.error ? ` (${file.error.message})` : ""}${(file.warnings || []).map((warning) => html` <small>${warning}</small>`)}</li>`)}</ul></div>`}
    <form onSubmit=${(event) => run(event, "ask")}>
      <${Field} label="Question"><input id="question" value=${question} onInput=${(event) => setQuestion(event.target.value)} /><//>
      <div class="row"><button disabled=${busy}>Ask</button><button type="button" disabled=${busy} onClick=${(event) => run(event, "search")}>Search</button></div>
    </form>
    <${Notice} error=${askError} />
    ${answer && html`<article><${Markdown} text=${answer.response} /><ol class="citations">${answer.citations.map((citation) => html`<li value=${citation.number}>
      <button type="button" class="link citation" onClick=${() => openCitation(citation)}>${citation.name}${citation.page ? `, page ${citation.page}` : ""} ${citation.heading.join(" › ")}</button></li>`)}</ol></article>`}
    ${opened && html`<${Place} ...${opened} />`}
    ${passages && html`<${Table} caption="Passages" rows=${passages.map((one) => ({ key: one.id, ...one }))} empty="No passage fits." columns=${[
      ["Score", (one) => number(one.score, 3)], ["Meaning", (one) => number(one.vector_score, 3)], ["Words", (one) => number(one.text_score, 2)],
      ["Where", (one) => `${one.name}${one.page ? `, page ${one.page}` : ""} ${one.heading.join(" › ")}`], ["Text", (one) => html`<div class="plain">${one.text}</div>`]]} />`}
    <h2>In this collection</h2>
    <${Notice} error=${documentsError} />
    <${Table} caption="Documents" rows=${((documents && documents.documents) || []).map((one) => ({ key: one.id, ...one }))} columns=${[
      ["Name", (one) => one.name], ["Kind", (one) => one.kind], ["Pages", (one) => one.pages], ["Passages", (one) => one.passages],
      ["", (one) => html`<button type="button" class="link" aria-label=${`Delete ${one.name}`} onClick=${async () => { await remove(`${place}/documents/${one.id}`); reload(); reloadDocuments(); }}>Delete</button>`]]} />
  </section>`;
}
