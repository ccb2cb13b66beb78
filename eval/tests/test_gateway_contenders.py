"""The contenders of the gateway's bench as processes: what is on in them, and that wrk asks what it is said to ask."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from apps.tests.support.waiting import until
from eval.gateway_calls import Call, Kind
from eval.gateway_contenders import Contender, contenders
from eval.gateway_wrk import Wrk

PLAIN = Call("plain", streamed=False)
# an honest checkout, as far as the bench knows one: it listens where it is told and answers every call
OTHER = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("X-Checkout", "other")
        self.send_header("X-Auth", os.environ.get("AUTH", "none"))
        self.send_header("Content-Length", "0")
        self.end_headers()

HTTPServer((os.environ["API_HOST"], int(os.environ["API_PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contenders")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[dict[str, Contender]]:
    with contenders(folder, ("off", "on")) as (mock, started):
        yield {"mock": mock, **{each.name: each for each in started}}


def get(contender: Contender, path: str) -> bytes:
    with httpx2.Client(base_url=contender.url.removesuffix("/v1/chat/completions"), timeout=90) as client:
        return client.get(path, headers={"Authorization": f"Bearer {contender.key}"}).raise_for_status().content


@pytest.mark.long
def test_on_wants_its_key_and_counts_calls_and_tokens(running: dict[str, Contender], folder: Path) -> None:
    on = running["on"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        Contender("stranger", on.url, on.pid, 0).ask(PLAIN)
    assert on.ask(PLAIN)["ratelimit-policy"] == '"v1";q=1000000000;w=60, "key";q=1000000000;w=60'
    keys = subprocess.run(
        [sys.executable, "-m", "apps.cli.main", "keys", "list"],
        env={**os.environ, "DATA_DIR": str(folder / "on-data")},
        capture_output=True,
        text=True,
        check=True,
    )
    header, key = (line.split() for line in keys.stdout.splitlines())
    limits = dict(zip(header, key, strict=True))
    assert (limits["rpm"], limits["tpm"]) == ("1000000000", "1000000000")


@pytest.mark.long
def test_on_caches_what_may_be_cached(running: dict[str, Contender]) -> None:
    on = running["on"]
    assert [on.ask(PLAIN)["x-cache"] for _ in range(2)] == ["miss", "miss"]
    assert [on.ask(Call("hit", streamed=True))["x-cache"] for _ in range(2)] == ["miss", "hit"]


@pytest.mark.long
def test_on_keeps_a_ledger_and_metrics_and_writes_a_line_a_call(running: dict[str, Contender], folder: Path) -> None:
    on = running["on"]
    on.ask(PLAIN)
    assert b"genai_" in get(on, "/metrics")
    assert until(lambda: json.loads(get(on, "/v1/usage"))["total"]["calls"]), "no call is in the ledger"
    assert (folder / "on-data" / "genai.db").is_file()
    assert "/v1/chat/completions" in (folder / "on.log").read_text()


@pytest.mark.long
def test_off_wants_no_key_counts_nothing_and_caches_nothing(running: dict[str, Contender], folder: Path) -> None:
    off = running["off"]
    assert not off.key
    told = [off.ask(Call("hit", streamed=False)) for _ in range(2)][-1]
    assert told["x-cache"] == "miss"
    assert not [name for name in told if "ratelimit" in name]
    assert "/v1/chat/completions" not in (folder / "off.log").read_text()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["plain", "miss", "hit"])
@pytest.mark.long
def test_wrk_makes_each_kind_of_calls(
    running: dict[str, Contender], tmp_path: Path, kind: Kind, streamed: bool
) -> None:
    """Wrk.run raises where the upstream was asked too seldom or too often for the kind."""
    run = Wrk(tmp_path, running["mock"], 1).run(running["on"], kind, streamed, 2)
    assert (run.contender, run.kind, run.streamed, run.connections, run.failed) == ("on", kind, streamed, 2, 0)
    assert run.rate > 10
    assert 0 < run.p50 <= run.p99


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.long
def test_hits_of_a_contender_without_a_cache_end_the_run(running: dict[str, Contender], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="off keeps no answer"):
        Wrk(tmp_path, running["mock"], 1).run(running["off"], "hit", False, 1)


def test_then_is_the_other_checkout_with_its_defaults(tmp_path: Path) -> None:
    main = tmp_path / "other/apps/api/src/main.py"
    main.parent.mkdir(parents=True)
    main.write_text(OTHER, encoding="utf-8")
    with contenders(tmp_path, (), tmp_path / "other") as (_, started):
        assert [each.name for each in started] == ["then"]
        told = started[0].ask(PLAIN)
    assert (told["x-checkout"], told["x-auth"]) == ("other", "none")
