"""A service whose local model crashes in the middle of what it was asked, quoting it: run by the tests of discretion.

uvicorn apps.tests.support.crashing_service:app
"""

from collections.abc import Sequence

from apps.api.src.application import create_app
from apps.api.src.observability.logs import configure_logging
from apps.api.src.observability.tracing import open_tracing
from apps.api.src.wiring.gateway import build_cloud, load_gateway, new_gateway
from apps.api.src.wiring.services import on_record
from apps.api.src.wiring.stores import build_database
from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.core.settings import load_settings
from apps.models.scripted import ScriptedModel, Step


def crashing(request: ChatRequest) -> Sequence[Step]:
    """At once, or after a word where the prompt says "later"; the exceptions quote the prompt, as libraries' do."""
    prompt = str(request.messages[-1].content)
    crash = ValueError(f"cannot make sense of {prompt!r}")
    crash.__cause__ = KeyError(prompt)
    return [Delta("word ", model="scripted"), 0.05, crash] if "later" in prompt else [crash]


settings = load_settings()
configure_logging(settings)
tracing = open_tracing(settings)
local = ScriptedModel(crashing)
gateway = new_gateway(settings)
load_gateway(gateway, settings, local, tracing=tracing)
cloud, database = build_cloud(settings, gateway), build_database(settings)
services = on_record(settings, cloud, local, gateway, tracing=tracing, database=database)
app = create_app(settings, services)
