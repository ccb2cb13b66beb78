"""Serves an app over a real socket, from a thread, for as long as a test needs it."""

import atexit
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from apps.api.src.application import create_app
from apps.api.src.http.protocol import Protocol
from apps.api.src.wiring.gateway import build_cloud, build_gateway
from apps.api.src.wiring.services import on_record
from apps.api.src.wiring.stores import build_database
from apps.core.ports import ChatModel, Embedder
from apps.core.settings import Settings
from apps.models.scripted import ScriptedModel, saying
from apps.tests.marks import marked
from apps.tests.overheard import Overheard
from apps.tests.support.migrated import lay_sqlite
from apps.tests.support.processes import hear_metrics
from apps.tests.watch import WATCH


@cache
def _data_folder(process: int) -> Path:
    """Each process has its own: a worker is a fork, and what one removes at its end another one may be using."""
    folder = Path(tempfile.mkdtemp(prefix=f"genai-data-{process}-"))
    atexit.register(_remove, folder, process)
    return folder


def _remove(folder: Path, process: int) -> None:
    # what this process forks ends, too
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def settings(**changes: object) -> Settings:
    """Settings that no `.env` of the machine reaches; limits are off unless a test turns them on.

    What the service keeps lies in a folder that is gone when the process of the tests is. Secrets are marked ones, but
    for those of the test's own.
    """
    if "data_dir" not in changes:
        changes["data_dir"] = WATCH.folder(Path(tempfile.mkdtemp(dir=_data_folder(os.getpid()))))
        lay_sqlite(Path(str(changes["data_dir"])))
    values: dict[str, object] = {
        "rate_limit_enabled": False,
        "database_timeout": 60.0,
        "secret_key": marked("SECRET_KEY"),
        **changes,
    }
    if "openai_base_url" in changes:
        values.setdefault("openai_api_key", marked("OPENAI_API_KEY"))
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The base URL of ``app``, served by uvicorn as production serves it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # our protocol serves the apps of create_app alone; a test may bring an app of its own
        plain = isinstance(app, FastAPI) and not hasattr(app.state, "services")
        http: Any = "httptools" if plain else Protocol
        config = uvicorn.Config(Overheard(app), http=http, log_config=None, access_log=False, server_header=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield url
            hear_metrics(url)
        finally:
            server.should_exit = True
            thread.join(90)
            assert not thread.is_alive()


def upstream_at(base_url: str, **changes: Any) -> dict[str, Any]:
    """Settings that lead /generate to an upstream, with short times."""
    return {"openai_base_url": base_url, "read_timeout": 0.5, "retry_backoff": 0.05, **changes}


@contextmanager
def serving_models(
    cloud: ChatModel | None = None,
    local: ChatModel | None = None,
    embedder: Embedder | None = None,
    **changes: object,
) -> Iterator[str]:
    """The base URL of an app with these models behind its routes."""
    quiet = ScriptedModel(saying("hello"))
    configured = settings(**changes)
    gateway = build_gateway(configured, local or quiet, embedder)
    routed = build_cloud(configured, gateway) if configured.gateway_config or "openai_base_url" in changes else quiet
    services = on_record(
        configured, cloud or routed, local or quiet, gateway, embedder, database=build_database(configured)
    )
    with serving(create_app(configured, services)) as url:
        yield url
