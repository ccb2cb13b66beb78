"""Wiring: what the settings and the routing file name is what is built."""

from pathlib import Path

import httpx2
import pytest

from apps.api.src.application import create_app
from apps.api.src.wiring.gateway import build_cloud, build_gateway
from apps.api.src.wiring.services import Services
from apps.core.settings import load_settings
from apps.models.scripted import ScriptedModel, saying
from apps.tests.marks import marked
from apps.tests.support.serving import serving
from eval.mock_upstream import MockUpstream

HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_providers_key_comes_from_the_environment_or_from_the_env_file(
    place: str, mock: MockUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, http: httpx2.Client
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "routes.yaml").write_text(
        f"providers: {{groq: {{base_url: '{mock.base_url}', api_key_env: GROQ_API_KEY}}}}\ndefault_provider: groq\n"
    )
    key = marked("GROQ_API_KEY")
    lines = ["GATEWAY_CONFIG=routes.yaml", "RATE_LIMIT_ENABLED=false", "AUTH=off"]
    if place == ".env":
        lines.append(f"GROQ_API_KEY={key}")
    else:
        monkeypatch.setenv("GROQ_API_KEY", key)
    (tmp_path / ".env").write_text("\n".join(lines))
    settings, local = load_settings(), ScriptedModel(saying("hello"))
    gateway = build_gateway(settings, local)
    with serving(create_app(settings, Services(build_cloud(settings, gateway), local, gateway))) as url:
        assert http.post(f"{url}/v1/chat/completions", json=HELLO).status_code == 200
    assert mock.stats()["last_headers"]["authorization"] == f"Bearer {key}"
