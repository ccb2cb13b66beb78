"""Replicas and gateways of a fleet inside the test's process: real sockets, and engines that need no model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from fastapi import FastAPI

from apps.api.src.application import create_app
from apps.api.src.wiring.fleet import model_settings
from apps.api.src.wiring.gateway import build_gateway
from apps.api.src.wiring.services import on_record
from apps.core.ports import Embedder, Reranker
from apps.core.settings import Settings
from apps.local.checkpoint import Report
from apps.local.loading import Loaded
from apps.local.model import LocalModel
from apps.local.tests.fakes import EchoEngine, EchoTokenizer
from apps.tests.marks import marked
from apps.tests.support.serving import serving, settings


@dataclass
class ServedReplica:
    url: str
    app: FastAPI
    engine: EchoEngine
    model: LocalModel


@contextmanager
def serving_replica(
    engine: EchoEngine | None = None,
    name: str = "echo",
    embedder: Embedder | None = None,
    reranker: Reranker | None = None,
    **changes: Any,
) -> Iterator[ServedReplica]:
    """A process of SERVE_ROLE=model, as far as its clients can tell, with an engine that says the prompt again."""
    engine = engine or EchoEngine(context_length=4096)
    given = {"fleet_secret": marked("FLEET_SECRET"), "serve_role": "model", **changes}
    configured = model_settings(settings(**given))

    def load(settings: Settings, report: Report) -> Loaded:
        return Loaded(name, engine, EchoTokenizer())

    local = LocalModel(configured, load)
    gateway = build_gateway(configured, local, embedder)
    services = replace(on_record(configured, local, local, gateway, embedder), reranker=reranker)
    app = create_app(configured, services)
    with serving(app) as url:
        yield ServedReplica(url, app, engine, local)


def fleet_file(folder: Path, *addresses: str, **provider: Any) -> Path:
    """A routing file whose model ``fleet`` is that of the replicas at ``addresses``."""
    file = folder / "gateway.yaml"
    content = {
        "providers": {"replicas": {"kind": "replicas", "addresses": list(addresses), **provider}},
        "models": {"fleet": {"targets": [{"provider": "replicas", "model": "local"}]}},
    }
    file.write_text(yaml.safe_dump(content))
    return file
