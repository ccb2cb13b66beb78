"""GET /v1/usage and /admin/usage: sums that are right, of one's own calls only, in pages, as JSON and as CSV."""

import csv
import io
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from apps.api.src.admin.operation_routes import as_csv
from apps.api.src.application import create_app
from apps.api.src.wiring.gateway import build_gateway
from apps.api.src.wiring.services import on_record
from apps.api.src.wiring.stores import build_database
from apps.core.callers import Caller
from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.models.scripted import ScriptedModel
from apps.operations.ledger_rows import day_of
from apps.tests.support.acting_as import ActingAs
from apps.tests.support.reading import envelope
from apps.tests.support.routing import ASK, routing_file
from apps.tests.support.serving import serving, settings
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream

CALLERS = {
    "ann": Caller("a", "k-ann"),
    "abe": Caller("a", "k-abe"),
    "bob": Caller("b", "k-bob"),
    "boss": Caller("ops", "k-boss", admin=True),
}
LOCAL = [Delta("a", model="own"), Delta(finish_reason="stop", usage=Usage(7, 2, 3), model="own")]
FORMULA = '=HYPERLINK("http://x")'


@pytest.fixture(scope="module")
def url(mock: MockUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("usage")
    content = {
        "providers": {
            "main": {"base_url": mock.base_url, "prices": {"gpt-4o-mini": {"input": 1, "output": 2}}},
            "here": {"kind": "local"},
        },
        "default_provider": "main",
    }
    configured = settings(auth="off", gateway_config=routing_file(folder, content), data_dir=folder)
    local = ScriptedModel(lambda _: LOCAL, name="own")
    gateway = build_gateway(configured, local)
    app = create_app(configured, on_record(configured, local, local, gateway, database=build_database(configured)))
    app.add_middleware(ActingAs, callers=CALLERS)
    with serving(app) as base, httpx2.Client(timeout=90) as http:
        fill(http, base)
        yield base


def fill(http: httpx2.Client, url: str) -> None:
    """Ann: 2 priced, 1 local, 1 failed; Abe: 1 local; Bob: a model whose name is a formula."""

    def post(who: str, model: str, **more: Any) -> None:
        http.post(f"{url}/v1/chat/completions", json={"model": model, **ASK, **more}, headers={"X-Act-As": who})

    post("ann", "gpt-4o-mini")
    post("ann", "gpt-4o-mini", stream=True)
    post("ann", "own", stream=True)
    post("ann", "fault-404")
    post("abe", "own")
    post("bob", FORMULA)
    assert until(lambda: get(http, url, "boss", "/admin/usage").json()["total"]["calls"] >= 6)


def get(http: httpx2.Client, url: str, who: str, path: str, **params: Any) -> httpx2.Response:
    headers = {"X-Act-As": who, **params.pop("headers", {})}
    return http.get(url + path, params=params or None, headers=headers)


def test_an_owner_sees_his_tenants_calls_by_day_and_model(url: str, http: httpx2.Client) -> None:
    answer = get(http, url, "ann", "/v1/usage")
    body = answer.json()
    today = day_of(time.time())
    assert (body["from"], body["to"], body["group_by"]) == (today[:8] + "01", today, ["day", "model"])
    assert body["next_offset"] is None
    rows = {row["model"]: row for row in body["data"]}
    assert set(rows) == {"gpt-4o-mini", "own", "fault-404"}
    priced = rows["gpt-4o-mini"]
    assert (priced["day"], priced["calls"], priced["failed"]) == (today, 2, 0)
    assert (priced["prompt_tokens"], priced["completion_tokens"]) == (18, 12)
    assert priced["cost_usd"] == pytest.approx(42e-6)
    assert (rows["own"]["calls"], rows["own"]["cached_tokens"], rows["own"]["cost_usd"]) == (2, 6, 0)
    assert (rows["fault-404"]["calls"], rows["fault-404"]["failed"]) == (1, 1)
    assert body["total"]["calls"] == 5
    assert body["total"]["cost_usd"] == pytest.approx(42e-6)
    assert answer.headers["Cache-Control"] == "no-store"


def test_nobody_sees_another_tenants(url: str, http: httpx2.Client) -> None:
    body = get(http, url, "bob", "/v1/usage", group_by="key", tenant="a").json()
    assert [row["key"] for row in body["data"]] == ["k-bob"]
    assert get(http, url, "boss", "/v1/usage").json()["data"] == []


def test_the_operator_sees_all_by_whatever_he_likes(url: str, http: httpx2.Client) -> None:
    body = get(http, url, "boss", "/admin/usage", group_by="tenant,key,route").json()
    assert [(row["tenant"], row["key"], row["calls"]) for row in body["data"]] == [
        ("a", "k-abe", 1),
        ("a", "k-ann", 4),
        ("b", "k-bob", 1),
    ]
    assert {row["route"] for row in body["data"]} == {"/v1/chat/completions"}
    narrow = get(http, url, "boss", "/admin/usage", group_by="model", tenant="a", key="k-ann", model="own").json()
    assert [(row["model"], row["calls"]) for row in narrow["data"]] == [("own", 1)]


def test_the_operators_is_for_operators(url: str, http: httpx2.Client) -> None:
    assert envelope(get(http, url, "ann", "/admin/usage"))["code"] == "FORBIDDEN"


def test_pages_follow_each_other(url: str, http: httpx2.Client) -> None:
    seen, path = [], "/admin/usage?group_by=tenant,model&limit=2"
    while path:
        answer = get(http, url, "boss", path)
        seen += [(row["tenant"], row["model"]) for row in answer.json()["data"]]
        assert answer.json()["total"]["calls"] == 6
        path = answer.headers.get("Link", "").partition("<")[2].partition(">")[0]
    assert len(seen) == len(set(seen)) == 4


@pytest.mark.parametrize("how", [{"format": "csv"}, {"headers": {"Accept": "text/csv"}}])
def test_csv_has_the_same_rows_and_no_formula(how: dict[str, Any], url: str, http: httpx2.Client) -> None:
    answer = get(http, url, "boss", "/admin/usage", group_by="model", **how)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert {row["model"]: row["calls"] for row in rows} == {
        "gpt-4o-mini": "2",
        "own": "2",
        "fault-404": "1",
        "'" + FORMULA: "1",
    }
    assert next(row for row in rows if row["model"] == "gpt-4o-mini")["cost_usd"] == "0.000042000"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_is_taken_for_a_formula(start: str) -> None:
    assert list(csv.reader(io.StringIO(as_csv(["a"], [{"a": start + "1"}]), newline="")))[1] == ["'" + start + "1"]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"from": "2026-11-02", "to": "2026-11-01"}, "from"),
        ({"from": "2020-01-01", "to": "2026-11-01"}, "from"),
        ({"group_by": "day,day"}, "group_by"),
        ({"group_by": "tenant"}, "group_by"),
        ({"group_by": "asked; drop table calls"}, "group_by"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"offset": "-1"}, "offset"),
        ({"from": "yesterday"}, "from"),
        ({"format": "xml"}, "format"),
    ],
)
def test_a_wrong_question_is_named(params: dict[str, str], field: str, url: str, http: httpx2.Client) -> None:
    answer = get(http, url, "ann", "/v1/usage", **params)
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == field


@pytest.mark.parametrize(("who", "path"), [("ann", "/v1/usage"), ("boss", "/admin/usage")])
def test_an_unknown_format_is_told_which_there_are(who: str, path: str, url: str, http: httpx2.Client) -> None:
    error = get(http, url, who, path, format="xml").json()["error"]
    assert (error.get("error_code", error["code"]), error["field"]) == ("INVALID_VALUE", "format")
    assert error["message"] == "Format must be one of json, csv"
    assert error["details"].items() >= {"allowed": ["json", "csv"], "received": "xml"}.items()


def test_a_wrong_group_limit_or_date_is_told_what_is_right(url: str, http: httpx2.Client) -> None:
    group = get(http, url, "ann", "/v1/usage", group_by="tenant").json()["error"]
    assert group["details"]["allowed"] == ["day", "key", "model", "route"]
    limit = get(http, url, "ann", "/v1/usage", limit=5000).json()["error"]
    assert limit["message"] == "Limit must be between 1 and 1000"
    assert limit["details"].items() >= {"min": 1, "max": 1000, "received": 5000}.items()
    date = get(http, url, "ann", "/v1/usage", **{"from": "yesterday"}).json()["error"]
    assert date["message"] == "From must be a date like 2026-11-30"


def test_a_text_that_is_too_long_is_told_how_long_it_may_be(url: str, http: httpx2.Client) -> None:
    error = envelope(get(http, url, "boss", "/admin/usage", tenant="x" * 101))
    assert (error["code"], error["field"]) == ("INVALID_VALUE", "tenant")
    assert error["message"] == "Tenant must be at most 100 characters"
    assert error["details"].items() >= {"max": 100, "received": 101}.items()


def test_days_without_calls_are_not_there(url: str, http: httpx2.Client) -> None:
    body = get(http, url, "ann", "/v1/usage", **{"from": "2020-01-01", "to": "2020-01-31"}).json()
    assert (body["data"], body["total"]["calls"], body["total"]["cost_usd"]) == ([], 0, 0)


def test_the_page_documents_both(url: str, http: httpx2.Client) -> None:
    paths = http.get(f"{url}/openapi.json").json()["paths"]
    for path in ("/v1/usage", "/admin/usage"):
        operation = paths[path]["get"]
        assert {"from", "to", "group_by", "format", "limit", "offset"} <= {
            one["name"] for one in operation["parameters"]
        }
        assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/csv"}
        assert "429" in operation["responses"]


def test_without_a_database_there_is_no_usage(http: httpx2.Client) -> None:
    configured = settings(auth="off")
    local = ScriptedModel(lambda _: LOCAL)
    with serving(create_app(configured, on_record(configured, local, local, build_gateway(configured, local)))) as base:
        assert envelope(http.get(f"{base}/admin/usage"))["code"] == "MODEL_UNAVAILABLE"
