"""Nobody gets in who should not: every route with every kind of key, by a walk of the page and of the app itself."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.routing import Mount

from apps.api.src.application import create_app
from apps.api.src.auth.authentication import Authenticator, RefusedKeys, is_open
from apps.api.src.http.docs_page import OWN, SHARED
from apps.api.src.v1.passage import KEPT
from apps.api.src.wiring.services import build_services
from apps.core.errors import Unauthorized
from apps.operations.database import Database
from apps.operations.key_store import KeyRing, KeysState, KeyStore, StoredKey
from apps.operations.key_terms import KeyTerms
from apps.tests.marks import learn
from apps.tests.support.keys import ADMIN, bearer, dead_keys, make_dead_keys, make_keys, opened
from apps.tests.support.openapi_page import with_whole_responses
from apps.tests.support.serving import serving_models, settings

OPEN = {"/health", "/healthz", "/ready", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
OPEN |= {"/static-offline-docs", "/docs/", "/redoc/", "/health/"}
# the console's page and its files; what it calls needs a key
OPEN |= {"/", "/favicon.ico", "/console/{folder}/{name}"}
METHODS = ("get", "post", "put", "patch", "delete")
NOBODY = ("none", "bad", "malformed", "two at once", "basic", "revoked", "rotated", "expired", "elsewhere")
WORDS = {"code": "UNAUTHORIZED", "message": "A valid API key is required", "status": 401, "field": None, "details": {}}
OPENAI_WORDS = {
    "code": "invalid_api_key",
    "error_code": "UNAUTHORIZED",
    "type": "authentication_error",
    "param": None,
}


@dataclass(slots=True)
class Guarded:
    """A service that wants keys, and the headers of each kind of caller."""

    url: str
    callers: dict[str, dict[str, str]]
    page: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    configured = settings(auth="on", data_dir=tmp_path_factory.mktemp("data"))
    terms: dict[str, dict[str, Any]] = {
        "good": {},
        "admin": ADMIN,
        "other tenant": {"tenant": "others"},
        "wrong route": {"routes": ["/v2/*"], "admin": True},
        "wrong model": {"models": ["another-*"]},
        "elsewhere": {"ip": ["10.1.2.0/24"], "admin": True},
    }
    keys = dict(zip(terms, make_keys(configured, *terms.values()), strict=True)) | make_dead_keys(configured)
    callers = {name: bearer(key) for name, key in keys.items()}
    callers |= {
        "none": {},
        "bad": bearer("ga_" + "A" * 43),
        "malformed": bearer("not a key \u00e9".encode("latin-1").decode("latin-1")),
        "two at once": {**bearer(keys["good"]), "X-API-Key": keys["other tenant"]},
        "basic": {"Authorization": f"Basic {keys['good']}"},
        "X-API-Key": {"X-API-Key": keys["good"]},
        "both the same": {**bearer(keys["good"]), "X-API-Key": keys["good"]},
        "lower case": {"authorization": f"bearer {keys['good']}"},
    }
    with (
        serving_models(auth="on", data_dir=configured.data_dir) as url,
        httpx2.Client(timeout=90) as client,
    ):
        yield Guarded(url, callers, with_whole_responses(client.get(f"{url}/openapi.json").json()))


# parts of OpenAI's API that are passed on by the same code as `files` and `images`
ALIKE = tuple(f"/v1/{family}" for family in KEPT if family not in ("files", "responses"))


def calls(page: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Method, path of the page, a real path and a body, of every route on the page."""
    # the page tells of shared collections in words
    shared = {path.replace(OWN, SHARED): item for path, item in page["paths"].items() if path.startswith(OWN)}
    for template, item in {**page["paths"], **shared}.items():
        if template.startswith(ALIKE):
            continue
        for method in METHODS:
            if method in item:
                yield method, template, _real(template, item[method]), _body(page, item[method])


def _real(template: str, operation: dict[str, Any]) -> str:
    path, query = template, {}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", "some")
        elif parameter["in"] == "query" and parameter.get("required"):
            query[parameter["name"]] = "some"
    assert "{" not in path
    return f"{path}?{httpx2.QueryParams(query)}" if query else path


def _body(page: dict[str, Any], operation: dict[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return None
    if "example" in content:
        return content["example"]
    schema = content["schema"]
    if "$ref" in schema:
        schema = page["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema.get("examples", [{}])[0]  # what is passed on has any form


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    """The envelope, on /v1 with OpenAI's fields beside ours."""
    body = answer.json()
    error: dict[str, Any] = body["error"]
    if isinstance(error, str):  # Ollama has the message alone there, and the rest beside it
        error = {**body, "message": error}
        del error["error"]
    assert set(error) - {"type", "param", "error_code"} == set(WORDS)
    return {**error, "code": error.get("error_code", error["code"])}


def ask(client: httpx2.Client, guarded: Guarded, caller: str, method: str, path: str, body: Any) -> httpx2.Response:
    headers = guarded.callers[caller]
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return client.request(method, guarded.url + path, json=body, headers=encoded)


@pytest.mark.long
def test_every_route_with_every_kind_of_key(guarded: Guarded, http: httpx2.Client) -> None:
    seen = 0
    for method, template, path, body in calls(guarded.page):
        for caller in guarded.callers:
            answer = ask(http, guarded, caller, method, path, body)
            where = f"{caller}: {method} {path}: {answer.status_code} {answer.text[:200]}"
            seen += 1
            if template in OPEN:
                assert answer.status_code not in (401, 403), where
            elif caller in NOBODY:
                assert answer.status_code == 401, where
                assert WORDS.items() <= error_of(answer).items(), where
                assert answer.headers["www-authenticate"] == 'Bearer realm="genai-project"', where
            elif caller == "wrong route" or (template.startswith("/admin") and caller != "admin"):
                assert answer.status_code == 403, where
                assert error_of(answer)["message"] == "This key may not do that", where
            elif _not_for(caller, method, template):
                assert answer.status_code == 403, where
            else:
                assert answer.status_code not in (401, 403, 500), where
    assert seen > 200


def _names_a_model(template: str) -> bool:
    # the example of /v1/rerank names none, and none is configured here
    named = ("/generate", "/local/generate", "/v1/route", "/v1/models/{id}", "/agents/{name}/run")
    of_a_collection = template.startswith(("/rag/collections/{name}", "/rag/shared/{name}"))
    return (
        template in named
        or of_a_collection
        or (
            template.startswith("/v1/")
            and template not in ("/v1/models", "/v1/usage", "/v1/me", "/v1/summary", "/v1/rerank", "/v1/capacity")
        )
        or (template.startswith("/api/") and template not in ("/api/tags", "/api/ps", "/api/version"))
    )


def _not_for(caller: str, method: str, template: str) -> bool:
    if caller == "wrong model" and _names_a_model(template):
        return True
    return _is_kept_by_the_upstream(template) or (caller != "admin" and _changes_what_is_shared(method, template))


def _is_kept_by_the_upstream(template: str) -> bool:
    family = template.removeprefix("/v1/").removesuffix("/{path}")
    return family in KEPT and template != "/v1/responses"


def _changes_what_is_shared(method: str, template: str) -> bool:
    uploads = method == "post" and template.endswith("/documents")
    return template.startswith("/rag/shared") and (method == "delete" or uploads)


def test_every_protected_route_says_so_on_the_page(guarded: Guarded) -> None:
    assert set(guarded.page["components"]["securitySchemes"]) == {"Bearer", "X-API-Key"}
    for method, template, _, _ in calls(guarded.page):
        operation = guarded.page["paths"][template.replace(SHARED, OWN)][method]
        if template in OPEN:
            assert "security" not in operation
            continue
        assert operation["security"] == [{"Bearer": []}, {"X-API-Key": []}], template
        for status in ("401", "403"):
            examples = operation["responses"][status]["content"]["application/json"]["examples"]
            errors = [example["value"]["error"] for example in examples.values()]
            # Ollama's clients read an error as a text
            assert [error["status"] for error in errors if not isinstance(error, str)] in ([int(status)], [])
            assert errors


def test_the_list_of_open_paths_is_what_this_test_says(tmp_path: Path) -> None:
    """A new route is closed; whoever opens one has to say so here."""
    configured = settings(auth="on", data_dir=tmp_path)
    app = create_app(configured, build_services(configured))
    paths = _paths(app)
    assert len(paths) > 15
    assert {path for path in paths if is_open(path) or is_open(f"{path}/x")} == OPEN


def _paths(app: FastAPI) -> set[str]:
    assert all(hasattr(route, "path") for route in app.routes), "a route that this test cannot see"
    return {route.path for route in app.routes if hasattr(route, "path")}


def test_every_route_of_the_app_is_closed_also_where_the_page_does_not_show_it(
    guarded: Guarded, http: httpx2.Client, tmp_path: Path
) -> None:
    configured = settings(auth="on", data_dir=tmp_path)
    app = create_app(configured, build_services(configured))
    for route in app.routes:
        path = getattr(route, "path", "")
        if path in OPEN and not isinstance(route, Mount):
            file = path.replace("{folder}", "static").replace("{name}", "app.js")
            assert http.get(guarded.url + file, follow_redirects=True).status_code in (200, 503)
        elif path not in OPEN:
            for method in getattr(route, "methods", None) or {"GET"}:
                answer = http.request(method, guarded.url + path.replace("{", "").replace("}", ""))
                assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize(
    "path",
    [
        *("/nowhere", "//", "/admin", "/admin/", "/admin/keys/", "/Admin/keys", "/admin%2Fkeys", "/v1"),
        *("//health", "/healthz/", "/healthz/..%2f", "/docs%2f..%2fadmin%2fkeys", "/openapi.jsonx"),
        *("/static-offline-docs", "/ready/..%2Fadmin/keys", "/docsx", "/HEALTH", "/metrics", "/.%2fhealth"),
    ],
)
def test_an_unknown_path_is_401_before_it_is_404(guarded: Guarded, path: str, http: httpx2.Client) -> None:
    for method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS"):
        answer = http.request(method, guarded.url + path)
        # a path below /docs may be looked for; what is found there is the documentation
        assert answer.status_code in ((404, 405) if "/docs/" in path or "/docs%2f" in path else (401,)), (method, path)


def test_a_browser_may_ask_before_it_sends(guarded: Guarded, http: httpx2.Client) -> None:
    page = {"Origin": "https://app.example", "Access-Control-Request-Headers": "authorization,content-type"}
    for method in ("GET", "POST", "DELETE"):
        asked = http.options(f"{guarded.url}/admin/keys", headers={**page, "Access-Control-Request-Method": method})
        assert asked.status_code in (200, 405)
    refused = http.get(f"{guarded.url}/admin/keys", headers={"Origin": "https://app.example"})
    assert refused.status_code == 401


def test_openais_paths_have_openais_fields_beside_the_envelope(guarded: Guarded, http: httpx2.Client) -> None:
    refused = http.post(f"{guarded.url}/v1/chat/completions", json={})
    assert refused.json()["error"].items() >= (WORDS | OPENAI_WORDS).items()
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["x-request-id"]


def test_a_websocket_is_refused(guarded: Guarded, http: httpx2.Client) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    answer = http.get(
        f"{guarded.url}/v1/realtime", headers={**upgrade, "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw=="}
    )
    assert answer.status_code == 401


class CountingStore(KeyStore):
    """Counts what is computed and looked up."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, lambda: b"x" * 32)
        self.counts: Counter[str] = Counter()

    def digest(self, key: str) -> bytes:
        self.counts["digest"] += 1
        return super().digest(key)

    async def find(self, key: str) -> tuple[StoredKey | None, KeysState]:
        self.counts["find"] += 1
        return await super().find(key)


def scope_of(headers: dict[str, str]) -> dict[str, Any]:
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "headers": encoded, "client": ("127.0.0.1", 1)}


async def test_every_401_costs_the_same_digests_and_lookups(tmp_path: Path) -> None:
    """So that the time of an answer does not say what is wrong with a key."""
    configured = settings(data_dir=tmp_path)
    async with opened(configured) as (_, database):
        store = CountingStore(database)
        ring = KeyRing(store)
        await ring.start()
        assert await ring.ready(90)
        made = {name: await store.create(KeyTerms(name=name)) for name in ("good", "other")}
        keys = {name: learn("API key", key) for name, (_, key) in made.items()}
        elsewhere = learn("API key", (await store.create(KeyTerms(name="elsewhere", ip=["10.1.2.0/24"])))[1])
        callers = {
            "bad": bearer("ga_" + "A" * 43),
            "malformed": bearer("not a key \u00c3\u00a9"),
            "short": bearer("x"),
            "two at once": {**bearer(keys["good"]), "X-API-Key": keys["other"]},
            "elsewhere": bearer(elsewhere),
            **{name: bearer(key) for name, key in (await dead_keys(store, database)).items()},
        }
        assert {"revoked", "rotated", "expired"} < callers.keys()
        authenticator = Authenticator(ring, None, RefusedKeys(None), open_while_empty=False)
        for name, headers in callers.items():
            for _ in range(2):
                store.counts.clear()
                assert authenticator.known(scope_of(headers)) is None
                with pytest.raises(Unauthorized):
                    await authenticator.caller(scope_of(headers))
                assert store.counts == {"digest": 1, "find": 1}, name
        await ring.aclose()
