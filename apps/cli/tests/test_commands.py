"""The command `genai` as a process, against a service over a real socket."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from apps.cli.docs import cited_in
from apps.cli.remote import CommandFailure, Service, reason_of
from apps.core.errors import ModelUnavailable
from apps.models.scripted import ScriptedModel, saying
from apps.models.upstream_errors import not_configured
from apps.tests.support.ports import free_port
from apps.tests.support.processes import environment, heard, run_module
from apps.tests.support.serving import serving, serving_models
from apps.tests.support.waiting import HANG_SECONDS, until


def genai(folder: Path, *words: str, text: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; ``text`` is piped in."""
    return heard(run_module("apps.cli.main", words, folder, environment(0, changes), text))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A service whose local model says the same to everything."""
    with serving_models(local=ScriptedModel(saying("Hello", " \x1b[31mworld", "!"), name="scripted")) as address:
        yield address


def test_a_prompt_is_answered_without_control_characters(url: str, tmp_path: Path) -> None:
    done = genai(tmp_path, "What is Python?", GENAI_URL=url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello [31mworld!\n", "")


def test_what_is_piped_in_is_the_prompt(url: str, tmp_path: Path) -> None:
    assert genai(tmp_path, text="hi", GENAI_URL=url).stdout == "Hello [31mworld!\n"
    assert genai(tmp_path, "Summarize", "--url", url, text="a text").stdout == "Hello [31mworld!\n"


def test_a_prompt_of_nothing_is_wrong_usage(url: str, tmp_path: Path) -> None:
    done = genai(tmp_path, "ask", GENAI_URL=url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("There is no prompt")


def test_json_is_the_services_own(url: str, tmp_path: Path) -> None:
    answer = json.loads(genai(tmp_path, "hi", "--json", GENAI_URL=url).stdout)
    assert answer["choices"][0]["message"]["content"] == "Hello \x1b[31mworld!"
    models = json.loads(genai(tmp_path, "models", "--json", GENAI_URL=url).stdout)
    assert "scripted" in [model["id"] for model in models["data"]]


def test_a_route_is_explained_in_tables_or_as_the_services_own(url: str, tmp_path: Path) -> None:
    plan = json.loads(genai(tmp_path, "route", "explain", "scripted", "--json", GENAI_URL=url).stdout)
    assert (plan["model"], [target["target"] for target in plan["order"]]) == ("scripted", ["local/scripted"])
    head, strategy, order, columns, target, left_out = genai(
        tmp_path, "route", "explain", "scripted", GENAI_URL=url
    ).stdout.splitlines()
    assert (head, strategy, order, left_out) == (
        *("model: scripted", "strategy: answered in this process: it is a model's own name"),
        *("order:", "left_out: -"),
    )
    assert columns.split() == [name.upper() for name in plan["order"][0]]
    assert target.startswith("local/scripted  machine") and target.endswith("  input=0.000000, output=0.000000")


def test_usage_is_a_row_a_group(tmp_path: Path) -> None:
    with serving_models(local=ScriptedModel(saying("hi"), name="scripted")) as address:
        assert genai(tmp_path, "usage", GENAI_URL=address).stdout == "No calls in these days\n"
        genai(tmp_path, "hi", GENAI_URL=address)
        assert until(lambda: bool(httpx2.get(f"{address}/v1/usage").json()["data"])), "the row is written"
        report = json.loads(genai(tmp_path, "usage", "--group-by", "route", "--json", GENAI_URL=address).stdout)
        assert [(row["route"], row["calls"]) for row in report["data"]] == [("/v1/chat/completions", 1)]
        columns, row = genai(tmp_path, "usage", "--all", "--group-by", "tenant", GENAI_URL=address).stdout.splitlines()
        assert columns.split()[:2] == ["tenant", "calls"] and row.split()[:2] == ["anonymous", "1"]
        wrong = genai(tmp_path, "usage", "--from", "tomorrow", GENAI_URL=address)
        assert (wrong.returncode, wrong.stderr[:20]) == (1, "From must be a date ")


def test_lists_have_all_pages() -> None:
    """Also where a page has none of them."""
    pages: dict[str, Any] = {
        "": {"data": [1, 2], "next": "a"},
        "a": {"data": [], "next": "b"},
        "b": {"data": [3], "next": None},
        "same": {"data": [], "next": "same"},
    }
    app = FastAPI()

    @app.get("/things")
    def things(kind: str, after: str = "") -> dict[str, Any]:
        return {**pages[after], "kind": kind}

    with serving(app) as address:
        found = Service(address).get_all("/things", "data", ("next", "after"), {"kind": "odd"})
        assert found == {"data": [1, 2, 3], "next": None, "kind": "odd"}
        pages[""]["next"] = "same"
        with pytest.raises(CommandFailure, match="the same page again"):
            Service(address).get_all("/things", "data", ("next", "after"), {"kind": "odd"})


def test_options_may_stand_before_the_command_and_before_the_prompt(url: str, tmp_path: Path) -> None:
    models = json.loads(genai(tmp_path, "--url", url, "--json", "models").stdout)
    assert "scripted" in [model["id"] for model in models["data"]]
    assert "scripted" in genai(tmp_path, f"--url={url}", "models").stdout
    assert genai(tmp_path, "--url", url, "models of the world").stdout == "Hello [31mworld!\n"


def test_a_conversation_has_a_history_and_commands(url: str, tmp_path: Path) -> None:
    typed = 'hello\n/help\n"""one\ntwo"""\n/reset\n/quit\n'
    done = genai(tmp_path, "chat", text=typed, GENAI_URL=url)
    assert done.returncode == 0
    assert done.stdout.count("Hello [31mworld!") == 2
    assert "/model NAME" in done.stdout


def test_a_model_that_is_not_there_is_one_line(url: str, tmp_path: Path) -> None:
    done = genai(tmp_path, "chat", "-m", "no/such model", GENAI_URL=url)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no/such model" in done.stderr


def test_a_model_without_its_key_is_no_matter_of_waiting() -> None:
    def reason(error: ModelUnavailable) -> str:
        headers = {"Retry-After": f"{error.retry_after:g}"}
        told = httpx2.MockTransport(lambda _: httpx2.Response(503, headers=headers, json=error.envelope()))
        with httpx2.Client(transport=told) as client:
            return reason_of(client.get("http://service"))

    missing = reason(not_configured("set OPENAI_API_KEY"))
    assert missing == "The model is not configured: set OPENAI_API_KEY (`genai models` lists the names)"
    assert reason(ModelUnavailable("It is loading", retry_after=7)) == "It is loading (try again in 7 s)"


def test_sources_of_an_answer_are_those_that_it_names() -> None:
    citations = [{"number": number} for number in (1, 2, 3)]
    assert cited_in({"response": "Thirty days [3].\nOf leave [1]", "citations": citations}) == [
        {"number": 1},
        {"number": 3},
    ]
    assert cited_in({"response": "Thirty days", "citations": citations}) == []


@pytest.mark.long
def test_a_service_that_is_not_there_has_a_status_of_its_own(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    for words in (["hi"], ["models"], ["agents", "list"], ["docs", "list"], ["usage"]):
        done = genai(tmp_path, *words, GENAI_URL=nowhere)
        assert (done.returncode, done.stdout) == (4, "")
        assert done.stderr == f"No service answers at {nowhere}: start one with `genai serve`\n"


def test_wrong_options_are_wrong_usage(tmp_path: Path) -> None:
    assert genai(tmp_path, "models", "--bogus").returncode == 2
    assert genai(tmp_path, "--version").stdout.startswith("genai ")


@pytest.mark.parametrize(
    "words",
    [[], ["chat"], ["docs", "add"], ["agents", "run"], ["keys", "create"], ["doctor"], ["bench"], ["fleet", "up"]],
)
def test_each_command_has_help_with_an_example(words: list[str], tmp_path: Path) -> None:
    done = genai(tmp_path, *words, "--help")
    assert done.returncode == 0
    assert "genai " + " ".join(words) in done.stdout
    assert "Example" in done.stdout or not words


def test_the_doctor_finds_a_wrong_setting_and_a_good_place(tmp_path: Path) -> None:
    wrong = genai(tmp_path, "doctor", "--json", API_PORT="many")
    assert wrong.returncode == 1
    assert json.loads(wrong.stdout)[0]["status"] == "fault"
    checks = {check["name"]: check for check in json.loads(genai(tmp_path, "doctor", "--json").stdout)}
    assert checks["settings"]["status"] == "ok"
    assert checks["local model"]["status"] == "fault"
    assert checks["database"]["status"] == "ok"


def module(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a module of Python's to its end."""
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, cwd=folder, env=environment(0, {}), capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )


def test_the_server_module_explains_itself_without_starting(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "apps.api.src.main", "--help"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(0, {}), capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m apps.api.src.main")


@pytest.mark.long
def test_the_old_address_says_the_new_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "apps.api.src.cli", "keys", "list"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(0, {}), capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0
    assert "is now: genai" in done.stderr
