"""The app that a server imports, and the server that `make run` starts.

uvicorn apps.api.src.main:app --host 0.0.0.0 --port 8000 --http apps.api.src.http.protocol:Protocol
python -m apps.api.src.main
"""

import gc
import os
import sys

if __name__ == "__main__" and len(sys.argv) > 1:
    # before the app is built: a word more than the command is a question, or a mistake
    print("usage: python -m apps.api.src.main (settings: the environment and .env; options: genai serve --help)")
    sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 2)

if __name__ == "__main__":
    # before the app is built: the process that starts others serves nothing itself
    from apps.core.settings import SettingsError, load_settings

    try:
        _started_with = load_settings()
    except SettingsError as error:
        sys.exit(str(error))
    if _started_with.starts_workers:
        from apps.api.src.http.workers import supervise

        sys.exit(supervise(_started_with))

gc.disable()  # imports make what lives on: searching it for garbage takes a tenth of the start, and finds none

from fastapi import FastAPI

from apps.agents.config import AgentsConfigError
from apps.api.src.application import create_app
from apps.api.src.observability.logs import configure_logging
from apps.api.src.wiring.services import build_model_services, build_services, no_key_exists, unwritable
from apps.core.settings import Settings, SettingsError, load_settings
from apps.gateway.routing.config import GatewayConfigError

TRUST = "FORWARDED_ALLOW_IPS"
PROTOCOL = "apps.api.src.http.protocol"
GC_THRESHOLDS = (20_000, 20, 50)


def _settings_or_exit() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        sys.exit(str(error))


def _app(settings: Settings) -> FastAPI:
    configure_logging(settings)
    if settings.serve_role == "all":
        _exit_unless_kept(settings)
    server_rewrites = __name__ != "__main__" and TRUST not in os.environ
    try:
        services = build_model_services(settings) if settings.serve_role == "model" else build_services(settings)
    except SettingsError as error:
        sys.exit(str(error))
    except GatewayConfigError as error:
        sys.exit(f"Wrong setting GATEWAY_CONFIG: {error}")
    except AgentsConfigError as error:
        sys.exit(f"Wrong setting AGENTS_CONFIG: {error}")
    # a server with our protocol in its options has imported it before the app
    limited = __name__ == "__main__" or PROTOCOL in sys.modules
    return create_app(settings, services, server_rewrites_client=server_rewrites, limited=limited)


def _exit_unless_kept(settings: Settings) -> None:
    """What is kept must have a place; and with ENV=production there must be a key, or it must be said that none is."""
    if fault := unwritable(settings):
        sys.exit(fault)
    if settings.env == "production" and settings.auth != "off" and not settings.oidc_issuer and no_key_exists(settings):
        sys.exit(
            "ENV=production needs a key: make one with `python -m apps.cli.main keys create --name NAME`,"
            " or set AUTH=off"
        )


def serve() -> None:
    """Run the app with the settings' address and the limits of our own server."""
    from apps.api.src.http.server import serve as run  # uvicorn: a server that imports the app has it already

    calm_the_collector()
    run(app, app.state.settings)


def calm_the_collector() -> None:
    """Keep the garbage collector off what lives as long as the process: it stopped every call for tens of ms.

    Reference counts free nearly everything at once; what is left are cycles, and those can wait a little.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


try:
    app = _app(_settings_or_exit())
finally:
    gc.enable()

if __name__ == "__main__":
    serve()
