"""The Helm chart: its values meet their schema, its templates read nothing else, and pods have what they must have.

Where .ci/requirements-helm.txt is installed, Helm's own code and the schemas of Kubernetes check it too.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from apps.core.process import VERSION
from apps.core.settings import Settings

CHART = Path(__file__).parents[4] / "infra/helm"
TEMPLATES = {file.name: file.read_text() for file in (CHART / "templates").iterdir()}
TEXT = "\n".join(TEMPLATES.values())
TOOLS = Path(sys.executable).parent
READ = re.compile(r"\$?\.Values((?:\.\w+)+)")


def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return loaded


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["apiVersion"], chart["name"], chart["appVersion"]) == ("v2", "genai-project", VERSION)


def test_the_values_meet_their_schema_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    command = [str(TOOLS / "check-jsonschema"), "--schemafile", str(CHART / "values.schema.json")]
    assert subprocess.run([*command, str(CHART / "values.yaml")], check=False).returncode == 0
    for wrong in ({"api": {"replicas": 0}}, {"unknown": 1}, {"model": {**values()["model"], "slots": 65}}):
        file = tmp_path / "wrong.yaml"
        file.write_text(yaml.safe_dump({**values(), **wrong}))
        assert subprocess.run([*command, str(file)], check=False, capture_output=True).returncode == 1


def test_templates_read_values_that_there_are_and_all_of_them() -> None:
    read = {found.group(1)[1:] for found in READ.finditer(TEXT)}
    for path in read:
        at: Any = values()
        for part in path.split("."):
            assert part in at, path
            at = at[part]

    def leaves(of: dict[str, Any], base: str = "") -> list[str]:
        paths: list[str] = []
        for key, value in of.items():
            whole = base + key
            nested = isinstance(value, dict) and value and whole not in read
            paths += leaves(value, f"{whole}.") if nested else [whole]
        return paths

    assert set(leaves(values())) <= read


def test_the_schema_knows_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values()) == set(schema["properties"]) - {"global"}
    for part in ("api", "model"):
        assert set(values()[part]) == set(schema["properties"][part]["properties"])


def test_every_block_of_a_template_is_closed() -> None:
    for name, text in TEMPLATES.items():
        opened = len(re.findall(r"\{\{-?\s*(?:if|with|range|define)\b", text))
        assert opened == len(re.findall(r"\{\{-?\s*end\b", text)), name
        assert len(re.findall(r"\{\{.*?\}\}", text)) == text.count("{{"), name


def test_what_is_included_is_defined() -> None:
    included = set(re.findall(r'include "([\w.]+)"', TEXT))
    assert included == set(re.findall(r'define "([\w.]+)"', TEXT))


@pytest.mark.parametrize("name", ["api.yaml", "model.yaml"])
def test_pods_have_probes_and_no_rights_and_time_to_end(name: str) -> None:
    text = TEMPLATES[name]
    for wanted in (
        "genai.probes",
        "genai.podSecurity",
        "genai.containerSecurity",
        "automountServiceAccountToken: false",
    ):
        assert wanted in text
    assert "terminationGracePeriodSeconds: {{ add .Values.shutdownGrace 15 }}" in text
    pod = TEMPLATES["_pod.tpl"]
    for wanted in (
        "runAsNonRoot: true",
        "readOnlyRootFilesystem: true",
        "drop: [ALL]",
        "path: /healthz",
        "path: /ready",
    ):
        assert wanted in pod
    # secrets come by reference, and every variable is a setting
    assert "secretKeyRef" in text
    assert {variable.lower() for variable in re.findall(r"name: ([A-Z][A-Z_]+)\b", text)} <= set(Settings.model_fields)


def test_the_autoscaler_reads_what_a_replica_shows() -> None:
    shown = (CHART.parents[1] / "apps/api/src/wiring/fleet.py").read_text()
    metrics = re.findall(r'metric: \{name: "([\w:]+)"\}', TEMPLATES["scaling.yaml"])
    assert len(metrics) == 2 and all(f'"{metric}"' in shown for metric in metrics)


EVERYTHING: dict[str, Any] = {
    "api": {"autoscaling": {"enabled": True}, "routing": "providers: {}", "environment": {"LOG_LEVEL": "info"}},
    "model": {"autoscaling": {"enabled": True}, "environment": {"LOCAL_KV": "int8"}},
    "imagePullSecrets": [{"name": "registry"}],
}


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"redis": {"enabled": False}, "postgresql": {"enabled": False}}])
def test_helms_own_code_and_the_schemas_of_kubernetes_find_nothing(changes: dict[str, Any]) -> None:
    """helm lint --strict, and each rendered document held to its schema, unknown fields too."""
    chart = pytest.importorskip("helm_python.chart", reason="pip install -r .ci/requirements-helm.txt")
    schemas = pytest.importorskip("kubernetes_validate", reason="pip install -r .ci/requirements-helm.txt")
    told = chart.lint(str(CHART), changes, strict=True)
    assert told["errors"] == [] and all(message["severity"] <= 1 for message in told["messages"]), told
    rendered = chart.Chart.load(str(CHART)).render(changes, name="x", namespace="default")
    documents = [one for text in rendered.values() for one in yaml.safe_load_all(text) if one]
    assert len(documents) >= 8
    for document in documents:
        schemas.validate(document, schemas.latest_version(), strict=True)
