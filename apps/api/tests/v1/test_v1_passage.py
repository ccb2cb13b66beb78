"""Audio, images, moderations, files and the like: what reaches the upstream, what comes back, what is refused."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from apps.tests.marks import marked
from apps.tests.support.keys import bearer, make_keys
from apps.tests.support.routing import provider, routing_file
from apps.tests.support.serving import serving, serving_models, settings

SOUND = bytes(range(256)) * 2_000
TOLD = {"error": {"message": "No such File at http://files.internal:9000: file-x", "code": "file_not_found"}}


@dataclass
class Seen:
    """A request as the upstream got it."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    digest: str
    size: int


@dataclass
class Upstream:
    url: str = ""
    seen: list[Seen] = field(default_factory=list)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    made, app = Upstream(), FastAPI()

    @app.api_route("/v1/{path:path}", methods=["GET", "POST", "DELETE"])
    async def anything(request: Request, path: str) -> Response:
        digest, size = hashlib.sha256(), 0
        if path == "files/refused":
            # answered before the body has come
            return JSONResponse({"error": {"message": "too large", "code": "request_too_large"}}, 413)
        if path in ("responses", "responses/input_tokens"):
            return JSONResponse({"asked": await request.json()})
        async for chunk in request.stream():
            digest.update(chunk)
            size += len(chunk)
        raw = request.scope["raw_path"].decode()
        headers = dict(request.headers)
        made.seen.append(Seen(request.method, raw, request.url.query, headers, digest.hexdigest(), size))
        if path == "audio/speech":
            return StreamingResponse(iter([SOUND[:1000], SOUND[1000:]]), media_type="audio/mpeg")
        if path.endswith("/content"):
            return Response(SOUND, headers={"Content-Disposition": 'attachment; filename="a.bin"', "X-Own": "no"})
        if path == "files/file-x":
            return JSONResponse(TOLD, 404)
        if path == "images/generations":
            return JSONResponse({"error": "down"}, 503)
        if path == "moderations":
            return JSONResponse({"error": {"message": "bad key"}}, 401)
        if path == "audio/transcriptions":
            usage = {"type": "tokens", "input_tokens": 5, "output_tokens": 7}
            return JSONResponse({"text": digest.hexdigest(), "usage": usage})
        return JSONResponse({"object": "list", "data": [], "id": "b", "deleted": True, "path": path}, 201)

    with serving(app) as url:
        made.url = f"{url}/v1"
        yield made


@pytest.fixture(scope="module")
def served(upstream: Upstream) -> Iterator[str]:
    with serving_models(openai_base_url=upstream.url, passage_max_bytes=2_000_000) as url:
        yield url


@pytest.fixture
def client(served: str) -> Iterator[openai.OpenAI]:
    key = marked("PASSED_KEY")
    with openai.OpenAI(base_url=f"{served}/v1", api_key=key, max_retries=0, timeout=60) as client:
        yield client


def envelope(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """The error of an answer of /v1."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_a_form_is_streamed_through_and_no_key_of_the_caller_with_it(
    client: openai.OpenAI, served: str, http: httpx2.Client, upstream: Upstream
) -> None:
    answer = client.audio.transcriptions.with_raw_response.create(
        model="whisper-1", file=("a.wav", SOUND), extra_headers={"X-API-Key": client.api_key, "Cookie": "c=1"}
    )
    seen = upstream.seen[-1]
    assert (seen.method, seen.path) == ("POST", "/v1/audio/transcriptions")
    assert json.loads(answer.text)["text"] == seen.digest and seen.size > len(SOUND)
    assert seen.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert int(seen.headers["content-length"]) == seen.size
    assert seen.headers["authorization"] == f"Bearer {marked('OPENAI_API_KEY')}"
    assert not {"x-api-key", "cookie", "x-stainless-lang"} & set(seen.headers)
    assert (answer.headers["x-provider"], answer.headers["x-attempts"]) == ("openai", "1")
    assert "x-request-id" in answer.headers


def test_a_form_whose_length_is_not_announced_arrives_whole(
    served: str, http: httpx2.Client, upstream: Upstream
) -> None:
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(SOUND), 10_000):
            yield SOUND[start : start + 10_000]

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = http.post(f"{served}/v1/files?purpose=a%20b", content=pieces(), headers=kind)
    assert (answer.status_code, answer.json()["object"]) == (201, "list")
    seen = upstream.seen[-1]
    assert (seen.digest, seen.query) == (hashlib.sha256(SOUND).hexdigest(), "purpose=a%20b")
    too_long = http.post(f"{served}/v1/files", content=iter([SOUND] * 5), headers=kind)
    assert envelope(too_long, 413)["error_code"] == "PAYLOAD_TOO_LARGE"
    announced = http.post(f"{served}/v1/files", content=SOUND * 5, headers=kind)
    assert envelope(announced, 413)["error_code"] == "PAYLOAD_TOO_LARGE"
    json_body = http.post(f"{served}/v1/audio/speech", content=b" " * 1_500_000)
    assert json_body.status_code == 413


def test_sound_and_files_come_back_as_they_are(client: openai.OpenAI, upstream: Upstream) -> None:
    speech = client.audio.speech.with_raw_response.create(model="tts-1", voice="alloy", input="hi")
    assert speech.content == SOUND and speech.headers["content-type"] == "audio/mpeg"
    assert speech.headers["x-model"] == "tts-1"
    content = client.files.with_raw_response.content("file-1")
    assert content.content == SOUND and content.headers["content-disposition"].startswith("attachment")
    assert "x-own" not in content.headers
    assert client.files.delete("file-1").deleted
    assert (upstream.seen[-1].method, upstream.seen[-1].path) == ("DELETE", "/v1/files/file-1")
    assert client.batches.cancel("batch_1").id == "b"
    assert upstream.seen[-1].headers["content-length"] in ("0", "2")
    client.responses.retrieve("resp_1")
    assert (upstream.seen[-1].method, upstream.seen[-1].path) == ("GET", "/v1/responses/resp_1")


def test_a_callers_fault_keeps_its_status_and_no_other_tells_anything(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.files.retrieve("file-x")
    assert missing.value.code == "file_not_found" and "internal" not in missing.value.message
    with pytest.raises(openai.InternalServerError):
        client.images.generate(model="dall-e-3", prompt="a cat")
    with pytest.raises(openai.APIStatusError) as key:
        client.moderations.create(input="hi")
    assert key.value.status_code == 502


def test_tokens_that_the_upstream_counts_are_those_of_kept_items_too(
    client: openai.OpenAI, served: str, http: httpx2.Client
) -> None:
    made = client.responses.create(model="scripted", input="hi").to_dict()["output"]
    assert isinstance(made, list) and made
    question = {"role": "user", "content": "on"}
    body = {"model": "gpt-x", "input": [{"type": "item_reference", "id": made[0]["id"]}, question]}
    answer = http.post(f"{served}/v1/responses/input_tokens", json=body)
    assert answer.json() == {"asked": {**body, "input": [made[0], question]}}


@pytest.mark.parametrize("path", ["responses", "responses/input_tokens"])
def test_a_kept_conversation_goes_to_the_upstream_that_has_not_got_it(
    path: str, client: openai.OpenAI, served: str, http: httpx2.Client
) -> None:
    weather: Any = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
    output: Any = {"type": "function_call_output", "call_id": "c", "output": "rain"}
    thought: Any = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    given = [{"role": "user", "content": "hi"}, thought, weather, output]
    first = client.responses.create(model="scripted", input=given)
    second = client.responses.create(model="scripted", input="more", previous_response_id=first.id)
    said = [response.output[0].to_dict() for response in (first, second)]

    def asked(**body: Any) -> Any:
        return http.post(f"{served}/v1/{path}", json={"model": "gpt-x", **body}).json()["asked"]

    question = {"role": "user", "content": "on"}
    body = asked(input="on", previous_response_id=second.id, temperature=0)
    hi, more = ([{"type": "input_text", "text": text}] for text in ("hi", "more"))
    assert body == {
        "model": "gpt-x",
        "temperature": 0,
        "input": [
            {"type": "message", "role": "user", "content": hi},
            weather,
            output,
            said[0],
            {"type": "message", "role": "user", "content": more},
            said[1],
            question,
        ],
    }
    assert asked(input=[question], previous_response_id=second.id)["input"] == body["input"]
    # what is wrong, and ids that are not kept here, are the upstream's to judge
    for theirs in ({"input": 3, "previous_response_id": second.id}, {"input": "on", "previous_response_id": "resp_1"}):
        assert asked(**theirs) == {"model": "gpt-x", **theirs}


def test_an_answer_that_comes_before_the_body_has_gone_is_told(served: str, http: httpx2.Client) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = http.post(f"{served}/v1/files/refused", content=SOUND * 3, headers=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("path", ["files/../models", "files/%2e%2e/models", "files/%252e%252e%2fmodels", "files//x"])
def test_no_path_leads_elsewhere(path: str, served: str, upstream: Upstream) -> None:
    # a client of its own would tidy the path up
    import http.client as plain

    host = served.removeprefix("http://")
    connection = plain.HTTPConnection(host, timeout=60)
    connection.request("GET", f"/v1/{path}")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 404:
        assert upstream.seen[-1].path == "/v1/files/%252e%252e/models"


def test_what_is_no_form_and_no_json_is_refused(served: str, http: httpx2.Client) -> None:
    text = http.post(f"{served}/v1/audio/speech", content=b"hi", headers={"Content-Type": "text/plain"})
    assert envelope(text, 415)["error_code"] == "UNSUPPORTED_MEDIA_TYPE"
    kind = {"Content-Type": "application/json"}
    for body, code in ((b"[]", "invalid_type"), (b'{"model": 3}', "invalid_type"), (b"{", "invalid_json")):
        wrong = http.post(f"{served}/v1/audio/speech", content=body, headers=kind)
        assert envelope(wrong, 400)["code"] == code


def test_without_an_upstream_it_is_said_what_to_configure(
    http: httpx2.Client, upstream: Upstream, tmp_path: Path
) -> None:
    local = routing_file(tmp_path, {"providers": {"here": {"kind": "local"}}})
    with serving_models(gateway_config=str(local)) as url:
        error = envelope(http.get(f"{url}/v1/files"), 404)
        assert "passage" in error["message"] and "GATEWAY_CONFIG" in error["message"]
    with serving_models() as url:
        assert "OPENAI_API_KEY" in envelope(http.get(f"{url}/v1/batches"), 503)["message"]


def test_each_part_goes_to_the_provider_that_is_named_for_it(
    http: httpx2.Client, upstream: Upstream, tmp_path: Path
) -> None:
    broken = provider("http://127.0.0.1:9")
    named = {"providers": {"main": provider(upstream.url), "dead": broken}, "passage": {"files": "main", "*": "dead"}}
    with serving_models(gateway_config=str(routing_file(tmp_path, named))) as url:
        listed = http.get(f"{url}/v1/files")
        assert (listed.status_code, listed.headers["x-provider"]) == (201, "main")
        assert http.get(f"{url}/v1/batches").status_code == 500


def test_keys_limits_and_the_ledger_hold(http: httpx2.Client, upstream: Upstream, tmp_path: Path) -> None:
    terms: list[dict[str, Any]] = [{}, {"models": ["tts-1"]}, {"routes": ["/v1/chat/*"]}, {"budget_usd": "5/day"}]
    every, speech, chat, poor = make_keys(settings(auth="on", data_dir=tmp_path), *terms)
    spoken = {"model": "tts-1", "voice": "a", "input": "hi"}
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path, "openai_base_url": upstream.url}
    with serving_models(**changes) as url:

        def ask(path: str, key: str, **fields: Any) -> httpx2.Response:
            return http.post(f"{url}/v1/{path}", headers=bearer(key), **fields)

        assert ask("audio/speech", speech, json=spoken).content == SOUND
        assert envelope(ask("audio/speech", speech, json={**spoken, "model": "other"}), 403)["param"] == "model"
        form = {"files": {"file": ("a", b"x")}, "data": {"model": "tts-1"}}
        assert ask("audio/transcriptions", speech, **form).status_code == 403
        assert ask("audio/transcriptions", every, **form).status_code == 200
        assert ask("audio/speech", chat, json=spoken).status_code == 403
        assert ask("audio/speech", "wrong", json=spoken).status_code == 401
        # nobody knows what that would cost
        assert "price" in envelope(ask("audio/speech", poor, json=spoken), 403)["message"]
        # what the upstream keeps is everybody's, so somebody has to want that
        kept = envelope(http.get(f"{url}/v1/files", headers=bearer(every)), 403)
        assert "passage" in kept["message"]
        for _ in range(1200):
            usage = http.get(f"{url}/v1/usage", headers=bearer(every)).json()
            if usage["total"]["calls"]:
                break
            time.sleep(0.05)
    assert (usage["total"]["prompt_tokens"], usage["total"]["completion_tokens"]) == (5, 7)
