// Collections of documents: files in, search with its scores, answers whose citations open at their sentence.
import { useEffect, useRef, useState } from "preact/hooks";
import { call, get, post, remove } from "../static/api.js";
import { Markdown } from "../static/markdown.js";
import { bytes, duration, Field, html, Notice, number, State, Table, useLoaded, when } from "../static/ui.js";

const base = (shared) => (shared ? "/rag/shared" : "/rag/collections");
const ENDED = ["done", "failed"];
const AROUND = 1500;
const MOST_READ = 50_000;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const placed = (one) => [one.name, one.page && `page ${one.page}`, one.heading.join(" › ")].filter(Boolean).join(" · ");

/** The document's text around a citation with its sentence marked, as text nodes; the page goes there. */
function Place({ citation, text, close }) {
  const mark = useRef();
  useEffect(() => { mark.current && mark.current.scrollIntoView({ block: "center" }); }, [citation]);
  const letters = [...(text ?? citation.quote)];
  const [from, to] = text === null ? [0, letters.length] : citation.support || citation.span;
  const begin = Math.max(0, from - AROUND), end = Math.min(letters.length, to + AROUND);
  return html`<article class="card opened" aria-label=${placed(citation)}><div class="row top"><h3>${placed(citation)}</h3><button type="button" class="link" onClick=${close}>Close</button></div>
    <blockquote class="plain" tabindex="0">${begin > 0 && "… "}${letters.slice(begin, from).join("")}<mark id="cited" ref=${mark}>${letters.slice(from, to).join("")}</mark>${letters.slice(to, end).join("")}${end < letters.length && " …"}</blockquote></article>`;
}

function Job({ job }) {
  const running = !ENDED.includes(job.status);
  return html`<div role="status" class="notice job">
    <div class="row"><progress max="100" value=${job.percent} aria-label="Progress" /> <${State} state=${job.status} /> <span>${number(job.passages)} passages${running && job.seconds_left !== null ? `, about ${duration(job.seconds_left)} left` : ""}</span></div>
    <ul>${job.files.map((file) => html`<li>${file.name}: ${file.status}${file.error ? ` (${file.error.message})` : ""}${(file.warnings || []).map((warning) => html`<small class="warning">${warning}</small>`)}</li>`)}</ul></div>`;
}

export function Documents() {
  const [shared, setShared] = useState(false);
  const [name, setName] = useState("documents");
  const [collections, error, reload] = useLoaded(() => get(base(shared)), [shared]);
  const known = collections ? collections.collections : [];
  const [documents, documentsError, reloadDocuments] = useLoaded(
    () => (known.some((one) => one.name === name) ? get(`${base(shared)}/${encodeURIComponent(name)}/documents`) : Promise.resolve({ documents: [] })),
    [name, shared, collections]);
  const [job, setJob] = useState(null);
  const [jobError, setJobError] = useState(null);
  const [question, setQuestion] = useState("");
  const [passages, setPassages] = useState(null);
  const [answer, setAnswer] = useState(null);
  const [askError, setAskError] = useState(null);
  const [opened, setOpened] = useState(null);
  const [read, setRead] = useState(null);
  const [busy, setBusy] = useState("");
  const [over, setOver] = useState(false);
  const place = `${base(shared)}/${encodeURIComponent(name)}`;
  useEffect(() => { if (known.length && !known.some((one) => one.name === name) && name === "documents") setName(known[0].name); }, [collections]);
  const choose = (change) => { change(); setAnswer(null); setPassages(null); setOpened(null); setRead(null); setAskError(null); };

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
    if (!question.trim() || busy) return;
    setBusy(kind); setAskError(null); setAnswer(null); setPassages(null); setOpened(null);
    try {
      if (kind === "search") setPassages((await post(`${place}/query`, { query: question, top_k: 8 })).passages);
      else setAnswer(await post(`${place}/generate`, { prompt: question }));
    } catch (problem) {
      setAskError(problem);
    }
    setBusy("");
  }

  const textOf = (id) => get(`${place}/documents/${id}/text`).then((found) => found.text);
  const open = async (citation) => setOpened({ citation, text: await textOf(citation.document).catch(() => null) });
  const drop = (event) => { event.preventDefault(); setOver(false); upload(event.dataTransfer.files); };

  // what there is nothing to ask of yet begins with its files
  const asking = html`<div key="ask">
    <form id="question-form" class="card" onSubmit=${(event) => run(event, "ask")}>
      <${Field} label=${`Ask ${name}`}><input id="question" value=${question} placeholder="How many days of leave are there?" onInput=${(event) => setQuestion(event.target.value)} /><//>
      <div class="row"><button disabled=${!!busy}>Ask</button><button type="button" class="second" disabled=${!!busy} onClick=${(event) => run(event, "search")}>Search</button>${busy && html`<span class="quiet" role="status">${busy === "ask" ? "Reading and answering" : "Searching"}</span>`}</div>
    </form>
    <${Notice} error=${askError} />
    ${answer && html`<article class="card"><${Markdown} text=${answer.response} />
      ${answer.citations.length > 0 && html`<h3>Sources</h3><ol class="citations">${answer.citations.map((citation) => html`<li value=${citation.number}>
      <button type="button" class="link citation" onClick=${() => open(citation)}>${placed(citation)}</button></li>`)}</ol>`}</article>`}
    ${opened && html`<${Place} ...${opened} close=${() => setOpened(null)} />`}
    ${passages && html`<h2>Found</h2><p class="quiet">Relevant: how likely a passage says anything about the question. Meaning: how near the two are by their embeddings, at most 1. Words: how well the words match (BM25). Score: both ranks together, and 1 more where the whole query stands in the passage.</p>
      <${Table} caption="Passages" rows=${passages.map((one) => ({ key: one.id, ...one }))} empty="No passage fits." columns=${[
        ["Relevant", (one) => (one.relevance === null ? "-" : `${number(one.relevance * 100, 0)} %`), "number"], ["Meaning", (one) => number(one.vector_score, 2), "number"], ["Words", (one) => number(one.text_score, 2), "number"], ["Score", (one) => number(one.score, 3), "number"],
        ["Where", placed], ["Text", (one) => html`<div class="plain short" tabindex="0">${one.text}</div>`]]} />`}</div>`;
  const files = html`<div key="files">
    <h2>Files in ${name}</h2>
    <div class=${`drop${over ? " over" : ""}`} onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${drop}>
      <label class="pick"><input id="files" type="file" multiple onChange=${(event) => upload(event.target.files)} /><b>Choose files</b> or drop them here</label><small>PDF, Word, PowerPoint, Excel, Markdown, HTML, e-mail, pictures and more</small></div>
    <${Notice} error=${jobError} />${job && html`<${Job} job=${job} />`}
    <${Notice} error=${documentsError} />
    <${Table} caption="Documents" rows=${((documents && documents.documents) || []).map((one) => ({ key: one.id, ...one }))} empty="No document yet." columns=${[
      ["Name", (one) => html`<b>${one.name}</b>`], ["Kind", (one) => one.kind], ["Size", (one) => bytes(one.bytes), "number"], ["Pages", (one) => one.pages || "-", "number"], ["Passages", (one) => one.passages, "number"], ["Taken in", (one) => when(one.ingested)],
      ["", (one) => html`<button type="button" class="link" aria-label=${`Read ${one.name}`} onClick=${() => textOf(one.id).then((text) => setRead({ name: one.name, text }), setJobError)}>Read</button> <button type="button" class="link bad" aria-label=${`Delete ${one.name}`} onClick=${() => remove(`${place}/documents/${one.id}`).then(() => { reload(); reloadDocuments(); setRead(null); }, setJobError)}>Delete</button>`, "actions"]]} />
    ${read && html`<article class="card"><div class="row top"><h3>What was read of ${read.name}</h3><button type="button" class="link" onClick=${() => setRead(null)}>Close</button></div>
      <div class="plain text" tabindex="0">${read.text.slice(0, MOST_READ)}${read.text.length > MOST_READ && "\n…"}</div></article>`}</div>`;
  return html`<section><h1>Documents</h1><${Notice} error=${error} />
    <div class="grid">
      <${Field} label="Whose"><select value=${shared ? "shared" : "mine"} onChange=${(event) => choose(() => setShared(event.target.value === "shared"))}><option value="mine">Mine</option><option value="shared">Shared</option></select><//>
      <${Field} label="Collection" help=${known.length ? `There are: ${known.map((one) => one.name).slice(0, 6).join(", ")}${known.length > 6 ? ", …" : ""}. A new name makes a new one.` : "A new name makes a new collection."}><input id="collection" list="collections" value=${name} onChange=${(event) => choose(() => setName(event.target.value))} /><datalist id="collections">${known.map((one) => html`<option value=${one.name} />`)}</datalist><//>
    </div>
    ${documents && documents.documents.length ? [asking, files] : [files, asking]}
  </section>`;
}
