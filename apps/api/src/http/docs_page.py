"""The page /docs, and what OpenAPI's document needs so that it can be read: errors once, summaries, models that answer.

Also what it says of keys: the two ways to send one, and 401 and 403 on every route that needs one. Everything here
works on the whole document, when it is first asked for.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response

from apps.api.src.auth.authentication import is_open
from apps.api.src.http.openapi import error_responses
from apps.api.src.v1.documentation import v1_errors
from apps.core.errors import Forbidden, Overloaded, Unauthorized

METHODS = ("get", "post", "put", "patch", "delete")
SCHEMAS = "#/components/schemas/"
RESPONSES = "#/components/responses/"
FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")
ENVELOPE_NAME = "ErrorEnvelope"
SHARED, OWN = "/rag/shared", "/rag/collections"
CLOUD_MODEL = "gpt-4o-mini"
LONGEST_SUMMARY = 90
STATIC = "/static-offline-docs"
# An error is one line: its bodies are described once, at the top of the page and among the components.
STYLE = """<style>
.swagger-ui tr.response:is([data-code^="4"], [data-code^="5"]) :is(.model-example, .response-controls, .response__extension, .tab) { display: none }
.swagger-ui tr.response:is([data-code^="4"], [data-code^="5"]) :is(td, p) { padding-top: 2px; margin: 0 }
@media (max-width: 600px) {
  .swagger-ui .opblock .opblock-summary { flex-wrap: wrap }
  .swagger-ui .opblock .opblock-summary-description { flex-basis: 100%; padding: 2px 10px }
  .swagger-ui .opblock .opblock-summary-path { max-width: none; word-break: break-all }
  .swagger-ui .opblock-tag { flex-wrap: wrap }
  .swagger-ui .opblock-tag .nostyle { flex: 1 }
  .swagger-ui .opblock-tag small { order: 1; flex: 1 0 100%; padding: 4px 0 }
}
</style></head>"""  # noqa: E501 - CSS


def operations(page: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each operation with its path."""
    for path, item in page["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, item[method]


def share_errors(page: dict[str, Any]) -> dict[str, Any]:
    """Describe each error once a body's shape and status, among the components; operations refer to it."""
    shared: dict[str, Any] = page["components"].setdefault("responses", {})
    for _, operation in operations(page):
        for status, response in operation["responses"].items():
            if (name := _error_name(status, response)) is not None:
                _merge(shared.setdefault(name, {"description": "", "content": {}}), response)
                operation["responses"][status] = {"$ref": RESPONSES + name}
    page["components"]["responses"] = dict(sorted(shared.items()))
    # of operations whose errors another audience's took the place of
    for name in FASTAPIS_OWN:
        page["components"]["schemas"].pop(name, None)
    return page


def _error_name(status: str, response: dict[str, Any]) -> str | None:
    """`Error404` in the envelope's shape, `OpenAIError404` in OpenAI's; None for what is no such error."""
    media = response.get("content", {}).get("application/json", {})
    schema = str(media.get("schema", {}).get("$ref", ""))
    if not status.startswith(("4", "5")) or not schema.startswith(SCHEMAS):
        return None
    shape = schema.removeprefix(SCHEMAS).removesuffix(ENVELOPE_NAME).removesuffix("Error")
    return f"{shape}Error{status}"


def _merge(shared: dict[str, Any], response: dict[str, Any]) -> None:
    known = shared["description"].split("; ") if shared["description"] else []
    new = [words for words in response["description"].split("; ") if words.lower() not in map(str.lower, known)]
    shared["description"] = "; ".join([*known, *new])
    for kind, media in response.get("content", {}).items():
        target = shared["content"].setdefault(kind, {**media, "examples": {}})
        target["examples"] |= media.get("examples", {})
    if headers := response.get("headers"):
        shared.setdefault("headers", {}).update(headers)


def tell_summaries(page: dict[str, Any]) -> dict[str, Any]:
    """Have an operation's first sentence as its summary where that is only the name of a function."""
    for _, operation in operations(page):
        summary = _short(operation.get("description", ""))
        if summary and operation["summary"] == _of_function(operation):
            operation["summary"] = summary
    return page


def _short(description: str) -> str:
    """The first sentence; of a long one, what stands before its last colon, semicolon or comma in the bound."""
    sentence = " ".join(description.split()).split(". ")[0].rstrip(".")
    if len(sentence) <= LONGEST_SUMMARY:
        return sentence
    ends = [at for mark in ":;," if (at := sentence.rfind(f"{mark} ", 0, LONGEST_SUMMARY)) > 0]
    return sentence[: max(ends, default=0)]


def _of_function(operation: dict[str, Any]) -> str:
    """The summary that FastAPI makes: the function's name, which the operation's id begins with."""
    words = str(operation["summary"]).split()
    named = str(operation.get("operationId", "")).startswith("_".join(words).lower())
    return str(operation["summary"]) if named else ""


def fold_shared_collections(page: dict[str, Any]) -> dict[str, Any]:
    """Leave out /rag/shared, whose routes are those of /rag/collections; the tag's description says so."""
    page["paths"] = {path: item for path, item in page["paths"].items() if not path.startswith(SHARED)}
    return page


def name_ready_model(page: dict[str, Any], model: str, cloud: bool) -> dict[str, Any]:
    """Fill in ``model`` where a request's example names one that would not answer.

    The example's cloud model stays where a ``cloud`` model is configured.
    """
    names = {"SmolLM2-135M-Instruct", *(() if cloud else (CLOUD_MODEL,))}
    for path, operation in operations(page):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            example = media.get("example")
            if path != "/generate" and isinstance(example, dict) and example.get("model") in names:
                media["example"] = {**example, "model": model}
    return page


def docs_router(app: FastAPI) -> APIRouter:
    """Swagger's page, with errors as lines; it loads nothing from elsewhere."""
    router = APIRouter()

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        """Show every route, and let it be tried."""
        root = request.scope.get("root_path") or ""
        made = get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - Swagger UI",
            oauth2_redirect_url=app.swagger_ui_oauth2_redirect_url,
            swagger_js_url=f"{root}{STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{root}{STATIC}/favicon.png",
            swagger_ui_parameters={"displayRequestDuration": True, "defaultModelsExpandDepth": 0},
        )
        return HTMLResponse(bytes(made.body).decode().replace("</head>", STYLE))

    return router


SCHEMES = {
    "Bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key, or a token of the configured OpenID Connect issuer. None is needed while keys are off.",
    },
    "X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A key"},
}


EITHER: list[dict[str, list[str]]] = [{name: []} for name in SCHEMES]


def document_security(page: dict[str, Any]) -> dict[str, Any]:
    """The page with all this in it."""
    page["components"]["securitySchemes"] = SCHEMES
    for path, item in page["paths"].items():
        if is_open(path):
            continue
        for method in METHODS:
            if method in item:
                _protect(item[method], path)
    return page


def _protect(operation: dict[str, Any], path: str) -> None:
    operation["security"] = EITHER
    made = v1_errors if path.startswith("/v1/") else error_responses
    for status, response in made(Unauthorized, Forbidden, Overloaded).items():
        if status in (401, 403, 503):
            operation["responses"].setdefault(str(status), response)
    refused = operation["responses"]["401"]
    refused.setdefault("headers", {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}})
    operation["responses"] = dict(sorted(operation["responses"].items()))
