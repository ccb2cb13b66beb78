"""python -m apps.tests.support.replica_program: a process of SERVE_ROLE=model whose engine needs no model.

It says the prompt again, a character a token, one every REPLICA_TOKEN_MS milliseconds.
"""

import os

from apps.api.src.application import create_app
from apps.api.src.http.server import serve
from apps.api.src.observability.logs import configure_logging
from apps.api.src.wiring.fleet import model_settings
from apps.api.src.wiring.gateway import build_gateway
from apps.api.src.wiring.services import on_record
from apps.core.settings import Settings, load_settings
from apps.local.checkpoint import Report
from apps.local.loading import Loaded
from apps.local.model import LocalModel
from apps.local.tests.fakes import EchoEngine, EchoTokenizer


def main() -> None:
    settings = model_settings(load_settings())
    configure_logging(settings)
    delay = float(os.environ.get("REPLICA_TOKEN_MS", "0")) / 1000

    def load(settings: Settings, report: Report) -> Loaded:
        return Loaded("echo", EchoEngine(4096, delay), EchoTokenizer())

    local = LocalModel(settings, load)
    app = create_app(settings, on_record(settings, local, local, build_gateway(settings, local)))
    serve(app, settings)


if __name__ == "__main__":
    main()
