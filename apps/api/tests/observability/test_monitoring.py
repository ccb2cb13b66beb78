"""What is shipped in infra/ for Prometheus and Grafana: valid, and about metrics that there really are."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from apps.api.src.application import create_app
from apps.api.src.wiring.services import build_services
from apps.tests.support.routing import ASK
from apps.tests.support.scraping import Scrape, scrape
from apps.tests.support.serving import serving, settings
from eval.mock_upstream import MockUpstream

INFRA = Path(__file__).parents[4] / "infra"
DASHBOARD = INFRA / "grafana/dashboards/genai-project.json"
RULES = INFRA / "prometheus/alerts.yml"
NAME = re.compile(r"\b(?:genai|process|python)_[a-z0-9_]+\b")
VARIABLES = {"$__rate_interval": "5m", "$job": "genai-project", "$instance": "a"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def promtool(*arguments: str | Path, folder: Path = INFRA / "prometheus") -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def seen(mock: MockUpstream) -> Iterator[Scrape]:
    """A scrape of a server that has served some calls, put together as production does it."""
    configured = settings(
        openai_base_url=mock.base_url,
        local_model="/no/such/folder",
        local_fallback="none",
        openai_api_key="k",
        cache_storage="mem://",
        # the numbers of shared limits are there, and nobody shares them
        rate_limit_storage="redis://127.0.0.1:1",
    )
    with (
        serving(create_app(configured, build_services(configured))) as url,
        httpx2.Client(timeout=90) as http,
    ):
        for stream in (True, False):
            body = {"model": "gpt-4o-mini", "stream": stream, "stream_options": {"include_usage": True}, **ASK}
            assert http.post(f"{url}/v1/chat/completions", json=body).status_code == 200
        for _ in range(2):
            headers = {"Idempotency-Key": "a"}
            http.post(f"{url}/v1/chat/completions", json={"model": "gpt-4o-mini", **ASK}, headers=headers)
        assert http.post(f"{url}/generate", json={"prompt": "hi"}).status_code == 200
        yield scrape(url)


def exists(name: str, scraped: Scrape) -> bool:
    """Among the samples; a counter that nothing has happened for has its type alone."""
    return name in scraped.names or scraped.kinds.get(name.removesuffix("_total")) == "counter"


def test_every_metric_of_the_dashboard_and_the_rules_is_one_that_there_is(seen: Scrape) -> None:
    asked = {name for text in (*queries(), *(rule["expr"] for rule in rules())) for name in NAME.findall(text)}
    assert len(asked) > 25
    assert sorted(name for name in asked if not exists(name, seen)) == []


def test_the_dashboard_shows_every_metric_of_ours(seen: Scrape) -> None:
    shown = set(NAME.findall(" ".join(queries())))
    ours = {family for family in seen.kinds if family.startswith("genai_")}
    missing = {family for family in ours if not any(name.startswith(family) for name in shown)}
    # of interest in an alert, or as a number of the configuration
    assert missing <= {"genai_observer_errors", "genai_local_context_tokens", "genai_local_weights_bytes"}


def test_labels_that_are_asked_for_are_there(seen: Scrape) -> None:
    labels = {label for sample in seen.samples for label in sample.labels} | {"job", "instance"}
    for text in (*queries(), *(rule["expr"] for rule in rules())):
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", text) for label in group.split(",")}
        matched = set(re.findall(r"[{,]\s*(\w+)\s*[=!]", text))
        assert grouped | matched <= labels, text


@needs_promtool
def test_promtool_accepts_the_configuration_and_the_rules(tmp_path: Path) -> None:
    copied = shutil.copytree(INFRA / "prometheus", tmp_path / "prometheus")
    (copied / "metrics.key").write_text("a key")
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml", folder=copied)


@needs_promtool
def test_the_rules_ring_when_they_should_and_not_otherwise() -> None:
    promtool("test", "rules", "alerts_test.yml")
    tested = yaml.safe_load((INFRA / "prometheus/alerts_test.yml").read_text())["tests"]
    ringing = {case["alertname"] for test in tested for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert ringing == {rule["alert"] for rule in rules()}


@needs_promtool
def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    recorded = []
    for number, query in enumerate(queries()):
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        recorded.append({"record": f"panel:query{number}", "expr": query})
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in promtool("check", "rules", file)


def test_the_dashboards_panels_lie_beside_each_other_and_each_asks_something() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["targets"]


def test_grafana_finds_its_dashboard_and_its_data_where_they_are_mounted() -> None:
    compose = yaml.safe_load((INFRA / "docker-compose.yml").read_text())["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    provided = yaml.safe_load((INFRA / "grafana/provisioning/dashboards/dashboards.yml").read_text())["providers"]
    assert [provider["options"]["path"] for provider in provided] == [mounts["./grafana/dashboards"]]
    (source,) = yaml.safe_load((INFRA / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (target,) = yaml.safe_load((INFRA / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert target["static_configs"] == [{"targets": ["api:8000"]}]
    assert target["job_name"] == "genai-project"


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_monitoring_starts_on_demand_for_this_machine_alone_and_pinned(name: str) -> None:
    service = yaml.safe_load((INFRA / "docker-compose.yml").read_text())["services"][name]
    assert service["profiles"] == ["monitoring"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])


def test_grafana_has_no_password_but_the_one_that_it_is_given() -> None:
    """The entrypoint itself, run by a shell: without a password it ends before Grafana starts."""
    service = yaml.safe_load((INFRA / "docker-compose.yml").read_text())["services"]["grafana"]
    assert service["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_ADMIN_PASSWORD:-}"
    shell, option, script = service["entrypoint"]
    script = script.replace("$$", "$").replace("exec /run.sh", "echo started")

    def start(password: str) -> subprocess.CompletedProcess[str]:
        environment = {"GF_SECURITY_ADMIN_PASSWORD": password, "PATH": "/usr/bin:/bin"}
        return subprocess.run([shell, option, script], env=environment, capture_output=True, text=True, check=False)

    refused, started = start(""), start("given")
    assert refused.returncode != 0
    assert "set GRAFANA_ADMIN_PASSWORD" in refused.stderr
    assert "started" not in refused.stdout
    assert started.stdout == "started\n"
