"""What a key reaches: every route of the app, by every method, with every scope, from its own tenant and another one.

Each route stands in one rule below. A route that stands in none fails the test, so that its scope is decided, not
forgotten.
"""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from apps.agents.config import AgentsConfig
from apps.api.src.v1.passage import KEPT, ONLY_BENEATH, PASSAGES
from apps.api.src.wiring.stores import Documents, build_documents
from apps.core.agent_runs import AgentRun
from apps.gateway.gateway import Gateway
from apps.models.scripted import ScriptedModel, saying
from apps.operations.agent_runs import AgentRuns
from apps.rag.library import Library
from apps.tests.support.agent_serving import agent, build
from apps.tests.support.keys import ADMIN, bearer, make_keys, with_store
from apps.tests.support.rag_serving import WordEmbedder, ingested
from apps.tests.support.serving import serving, settings

CLOUD, LOCAL = "gpt-4o-mini", "local"
SECRET = "quagga"
NOTE = {"name": "note.md", "text": f"# Note\n\nThe animal is a {SECRET}."}

OPEN = """
GET / | GET /favicon.ico | GET /console/{folder}/{name} | GET /docs | GET /docs/ | GET /docs/oauth2-redirect
GET /redoc | GET /redoc/ | GET /openapi.json | GET /health | GET /health/ | GET /healthz | GET /ready
"""
ANY_KEY = """
GET /v1/me | GET /v1/models | GET /v1/summary | GET /v1/usage | GET /v1/capacity | GET /metrics | GET /api/tags
GET /api/ps
GET /api/version | GET /agents | GET /agents/runs | GET /rag/collections | GET /rag/shared | POST /mcp
"""
ADMIN_ONLY = """
GET /admin/keys | POST /admin/keys | POST /admin/keys/{id}/rotate | DELETE /admin/keys/{id} | GET /admin/usage
POST /admin/routing/check
"""
NAMED_MODEL = """
POST /generate | POST /v1/chat/completions | POST /v1/completions | POST /v1/responses | POST /v1/embeddings
POST /v1/messages | POST /v1/messages/count_tokens | POST /v1/tokenize | POST /v1/detokenize
POST /v1/chat/completions/input_tokens
GET /v1/route | GET /v1/models/{id:path}
POST /api/chat | POST /api/generate | POST /api/embed | POST /api/embeddings | POST /api/show
"""
LOCAL_MODEL = "POST /local/generate"
# a reranker of this machine is local
NAMED_OR_LOCAL = "POST /v1/rerank"
AGENT = """
POST /agents/{name}/run | GET /agents/runs/{id} | POST /agents/runs/{id}/approve | POST /agents/runs/{id}/deny
POST /agents/runs/{id}/decisions | DELETE /agents/runs/{id}
"""
COLLECTION = """
POST /{name}/query | POST /{name}/generate | GET /{name} | GET /{name}/documents | GET /{name}/documents/{id}
GET /{name}/documents/{id}/passages | GET /{name}/documents/{id}/text | GET /{name}/passages/{id}
POST /{name}/documents | DELETE /{name}/documents/{id} | DELETE /{name}
"""


def _each(rule: str, base: str = "") -> list[tuple[str, str]]:
    lines = [line for row in rule.strip().splitlines() for line in row.split(" | ")]
    return [(method, base + path) for method, path in (line.split(" ") for line in lines)]


def _passed_on(kept: bool) -> list[tuple[str, str]]:
    families = [family for family in PASSAGES if (family in KEPT) == kept]
    names = {f"/v1/{family}": family for family in families if family not in ONLY_BENEATH}
    names |= {f"/v1/{family}/{{path:path}}": family for family in families}
    return [(method, path) for path, family in names.items() for method in PASSAGES[family][1]]


RULES: dict[tuple[str, str], str] = {
    **dict.fromkeys(_passed_on(kept=True), "nobody"),
    **dict.fromkeys(_passed_on(kept=False), "all models"),
    **dict.fromkeys(_each(OPEN), "open"),
    **dict.fromkeys(_each(ANY_KEY), "any"),
    **dict.fromkeys(_each(ADMIN_ONLY), "admin"),
    **dict.fromkeys(_each(NAMED_MODEL), CLOUD),
    **dict.fromkeys(_each(LOCAL_MODEL), LOCAL),
    **dict.fromkeys(_each(NAMED_OR_LOCAL), f"{CLOUD} {LOCAL}"),
    **dict.fromkeys(_each(AGENT), "agent/a"),
    **dict.fromkeys(_each(COLLECTION, "/rag/collections"), "rag/notes"),
    **dict.fromkeys(_each(COLLECTION, "/rag/shared"), "rag/shared/notes"),
    ("GET", "/rag/jobs/{id}"): "rag/notes",
}
NAMES = {CLOUD, LOCAL, "agent/a", "rag/notes", "rag/shared/notes"}
KEYS: dict[str, dict[str, Any]] = {
    "other paths": {"routes": ["/v2/*"], "admin": True, "tenant": "red"},
    "other tenant": {"tenant": "blue"},
    **{name: {"models": [name], "tenant": "red"} for name in (CLOUD, LOCAL, *sorted(NAMES - {CLOUD, LOCAL}))},
    "everything": {"tenant": "red"},
    "admin": {**ADMIN, "tenant": "red"},
}


def _writes_shared(method: str, path: str) -> bool:
    return path.startswith("/rag/shared") and (method == "DELETE" or (path.endswith("/documents") and method == "POST"))


def _forbidden(key: str, method: str, path: str) -> bool:
    needed = RULES[method, path]
    if needed == "open":
        return False
    if key == "other paths" or (_writes_shared(method, path) and key != "admin"):
        return True
    if needed == "admin":
        return key != "admin"
    if needed == "nobody":  # until the routing file shares what an upstream keeps
        return True
    return key in NAMES and needed != "any" and key not in needed.split()


BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "completions": {"prompt": "hi"},
    "chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "responses": {"input": "hi"},
    "tokenize": {"prompt": "hi"},
    "detokenize": {"tokens": [1]},
    "embeddings": {"input": "hi", "prompt": "hi"},
    "embed": {"input": "hi"},
    "messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    "input_tokens": {"messages": [{"role": "user", "content": "hi"}]},
    "count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
    "rerank": {"query": "animal", "documents": ["a", "b"]},
    "generate": {"prompt": "hi"},
    "run": {"prompt": "hi"},
    "query": {"query": "animal"},
    "documents": NOTE,
    "decisions": {"decisions": [{"approved": False, "id": "call_1"}]},
    "show": {},
    "keys": {"name": "new"},
    "mcp": {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
}


def _body(template: str) -> dict[str, Any] | None:
    path = template.strip("/").removeprefix("v1/")
    body = BODIES.get(path, BODIES.get(path.rpartition("/")[2]))
    return {**body, "model": CLOUD} if body is not None and CLOUD in RULES["POST", template] else body


class Walked:
    """The service, the headers of its keys, and the ids of what the tenant `red` has in it."""

    def __init__(self, url: str, http: httpx2.Client, keys: dict[str, str], run: str) -> None:
        self.url, self.http = url, http
        self.headers: dict[str, dict[str, str]] = {name: bearer(key) for name, key in keys.items()}
        self.ids = {"/agents/runs": run}

    def fill(self) -> None:
        """Ingest a document for the tenant, and one for everybody."""
        self.http.headers.update(self.headers["admin"])
        for base in ("/rag/collections", "/rag/shared"):
            job = ingested(self.http, f"{self.url}{base}/notes", NOTE)
            assert job["status"] == "done"
            found = self.http.post(f"{self.url}{base}/notes/query", json={"query": SECRET}).json()["passages"][0]
            self.ids[f"{base}/{{name}}/documents"] = found["document"]
            self.ids[f"{base}/{{name}}/passages"] = found["id"]
            self.ids.setdefault("/rag/jobs", job["id"])
        del self.http.headers["Authorization"]

    def ask(self, key: str, method: str, template: str) -> httpx2.Response:
        path, model = template, RULES[method, template]
        for base, id in self.ids.items():
            path = path.replace(f"{base}/{{id}}", f"{base}/{id}")
        path = (
            path.replace("{id:path}", CLOUD)
            .replace("{path:path}", "some")
            .replace("{name}", "a" if model == "agent/a" else "notes")
        )
        path = path.replace("{id}", "some").replace("{folder}", "static")
        body = _body(template) if method == "POST" else None
        params = {"model": CLOUD} if template == "/v1/route" else {}
        return self.http.request(method, self.url + path, json=body, params=params, headers=self.headers.get(key, {}))

    def walk(self, without: frozenset[str] = frozenset()) -> int:
        """Ask every route with every key; how many calls that was."""
        # reading before writing, and deleting last: what one caller may change must be there for those before it
        order = sorted(RULES, key=lambda route: ("GET", "POST", "DELETE").index(route[0]))
        asked = 0
        for key in ("", *KEYS):
            for method, path in order:
                if path in without or (RULES[method, path] == "open" and key not in ("", "other paths")):
                    continue
                answer = self.ask(key, method, path)
                asked += 1
                where = f"{key or 'no key'}: {method} {path}: {answer.status_code} {answer.text[:200]}"
                assert answer.status_code != 500, where
                if not key:
                    assert (answer.status_code == 401) == (RULES[method, path] != "open"), where
                else:
                    assert (answer.status_code == 403) == _forbidden(key, method, path), where
                if key == "other tenant" and not path.startswith("/rag/shared"):
                    assert SECRET not in answer.text, where
        return asked


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    folder = tmp_path_factory.mktemp("scopes")
    changes: dict[str, Any] = {"auth": "on", "data_dir": folder, "rag_min_score": 0.0}
    model, embedder = ScriptedModel(saying("hello")), WordEmbedder()
    library = Library(folder / "rag", embedder)

    def documents(gateway: Gateway) -> Documents:
        return build_documents(settings(**changes), gateway, model, embedder, library)

    return build(AgentsConfig(agents={"a": agent()}), model, documents=documents, **changes)


@pytest.fixture(scope="module")
def walked(app: FastAPI) -> Iterator[Walked]:
    made = make_keys(app.state.settings, *KEYS.values())
    run = AgentRun("red", None, "a", ends_by=0.0, status="done", answer=SECRET)
    with_store(app.state.settings, lambda _, database: AgentRuns(database).add(run))
    with serving(app) as url, httpx2.Client(timeout=90) as http:
        yield Walked(url, http, dict(zip(KEYS, made, strict=True)), run.id)


def test_every_route_has_a_rule(app: FastAPI) -> None:
    routes = [(getattr(route, "path", ""), getattr(route, "methods", None) or ()) for route in app.routes]
    methods = {(method, path) for path, named in routes for method in named}
    walked = {(method, path) for method, path in methods if method != "HEAD"}
    assert walked - set(RULES) == set(), "a route whose scope nobody has decided: put it into one of the rules"
    assert set(RULES) - walked == set(), "a rule of a route that is gone"
    assert {path for method, path in methods if method == "HEAD"} <= {path for _, path in walked}


def test_every_route_with_every_scope_and_tenant(walked: Walked) -> None:
    """Where nothing is stored: a key is judged before what it asks for is looked up. The job's scope is its own."""
    assert walked.walk(without=frozenset({"/rag/jobs/{id}"})) > 500


@pytest.mark.long
@pytest.mark.local
def test_every_route_with_every_scope_and_tenant_where_there_is_something_to_lose(walked: Walked) -> None:
    walked.fill()
    assert walked.walk() > 500


@pytest.mark.long
@pytest.mark.local
def test_lists_show_what_the_key_is_for(walked: Walked) -> None:
    def listed(key: str, path: str, field: str) -> list[Any]:
        found: list[Any] = walked.http.get(walked.url + path, headers=walked.headers[key]).json()[field]
        return found

    walked.fill()
    assert [one["name"] for one in listed("rag/notes", "/rag/collections", "collections")] == ["notes"]
    assert [one["name"] for one in listed("rag/shared/notes", "/rag/shared", "collections")] == ["notes"]
    for path, field in (("/rag/collections", "collections"), ("/rag/shared", "collections"), ("/agents", "agents")):
        assert listed(LOCAL, path, field) == []
    assert listed(LOCAL, "/agents/runs", "runs") == []
    own = walked.ids["/agents/runs"]
    assert own in [run["run"] for run in listed("agent/a", "/agents/runs", "runs")]
    assert own not in [run["run"] for run in listed("other tenant", "/agents/runs", "runs")]
