// The frame: pages by the address behind #, hidden where the key does not reach.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { signal } from "@preact/signals";
import { get, key } from "./api.js";
import { Agents } from "../pages/agents.js";
import { Chat } from "../pages/chat.js";
import { Compare } from "../pages/compare.js";
import { Documents } from "../pages/documents.js";
import { Keys } from "../pages/keys.js";
import { Live } from "../pages/live.js";
import { Routing } from "../pages/routing.js";
import { Start } from "../pages/start.js";
import { Usage } from "../pages/usage.js";
import { Field, html, Notice } from "./ui.js";

const PAGES = [
  ["start", "Start", Start, null],
  ["chat", "Chat", Chat, "/v1/chat/completions"],
  ["compare", "Compare", Compare, "/v1/chat/completions"],
  ["documents", "Documents", Documents, "/rag/collections"],
  ["agents", "Agents", Agents, "/agents"],
  ["usage", "Usage", Usage, "/v1/usage"],
  ["keys", "Keys", Keys, "admin"],
  ["routing", "Routing", Routing, "/v1/route"],
  ["live", "Live", Live, "/v1/summary"],
];
const page = signal("start");
const readPage = () => { page.value = location.hash.replace(/^#\/?/, "") || "start"; };
addEventListener("hashchange", readPage);
readPage();

function matches(pattern, path) {
  return new RegExp(`^${pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".")}$`).test(path);
}

function allows(me, need) {
  if (need === null || !me) return true;
  if (need === "admin") return me.admin && me.authenticated;
  return me.routes.some((pattern) => matches(pattern, need));
}

function SignIn({ error, done }) {
  const [value, setValue] = useState("");
  return html`<form class="signin card" onSubmit=${(event) => { event.preventDefault(); key.value = value.trim(); done(); }}>
    <h1>This service asks for a key</h1><${Notice} error=${key.value ? error : null} />
    <${Field} label="API key" help="It stays in this tab, and is gone when the tab is closed."><input id="key" type="password" autocomplete="off" value=${value} onInput=${(event) => setValue(event.target.value)} /><//>
    <div class="row"><button>Go on</button></div></form>`;
}

function App() {
  const [me, setMe] = useState(null);
  const [error, setError] = useState(null);
  const load = () => get("/v1/me").then((value) => { setMe(value); setError(null); }, (problem) => { setMe(null); setError(problem); });
  useEffect(() => { load(); }, []);
  useEffect(() => { if (page.value === "usage") load(); }, [page.value]);
  const refused = error && error.status === 401;
  const reaches = (id) => allows(me, PAGES.find(([one]) => one === id)[3]);
  const known = PAGES.find(([id]) => id === page.value) || PAGES[0];
  const current = reaches(known[0]) ? known : PAGES[0];
  const Page = current[2];
  useEffect(() => {
    document.title = `${current[1]} - genai-project`;
    const centre = () => { const link = document.querySelector("nav [aria-current]"); if (link) link.parentElement.scrollLeft = link.offsetLeft - (link.parentElement.clientWidth - link.offsetWidth) / 2; };
    centre();
    addEventListener("resize", centre);
    return () => removeEventListener("resize", centre);
  }, [current[0], !me]);
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>To the content</a>
    <header><a class="brand" href="#/start" aria-label="genai-project, start"><img src="/favicon.ico" alt="" width="24" height="24" /></a><nav aria-label="Pages">${PAGES.filter(([id]) => (me || (error && !refused)) && reaches(id)).map(([id, name]) => html`<a key=${id} href=${`#/${id}`} aria-current=${id === current[0] ? "page" : undefined}>${name}</a>`)}</nav>
      ${me && html`<span class="who">${me.authenticated ? html`<span>${me.name || me.tenant}</span><button type="button" class="link" onClick=${() => { key.value = ""; load(); }}>Sign out</button>` : "no key needed"}</span>`}</header>
    <main id="main" tabindex="-1">${refused ? html`<${SignIn} error=${error} done=${load} />` : html`<${Notice} error=${error} />${(me || error) && html`<${Page} key=${current[0] + key.value} me=${me} reaches=${reaches} />`}`}</main>`;
}

render(html`<${App} />`, document.getElementById("app"));
