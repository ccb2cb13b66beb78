"""`genai serve`: the service itself, with the settings of the environment and of `.env`."""

import os
from typing import Annotated

import typer

from apps.core.settings import load_settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (API_HOST).")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on (API_PORT).")] = None,
    local_model: Annotated[
        str | None, typer.Option(help="The local model: a hub name or a folder (LOCAL_MODEL).")
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="model: the local model alone, for gateways of a fleet (SERVE_ROLE).")
    ] = None,
    uds: Annotated[str | None, typer.Option(help="Unix socket to listen on in place of a port (API_UDS).")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Processes of the API (API_WORKERS).")] = None,
) -> None:
    """Start the service. Settings come from the environment and `.env`; the options go before both.

    Examples: genai serve · genai serve --port 8080 · genai serve --workers 2 · genai serve --role model
    """
    options = {"API_HOST": host, "API_PORT": port, "LOCAL_MODEL": local_model}
    options |= {"SERVE_ROLE": role, "API_UDS": uds, "API_WORKERS": workers}
    for name, value in options.items():
        if value is not None:
            os.environ[name] = str(value)
    settings = load_settings()
    if settings.starts_workers:
        from apps.api.src.http.workers import supervise

        raise typer.Exit(supervise(settings))
    # the app is built when it is imported, with the settings of that moment
    from apps.api.src.main import serve as serve_app

    serve_app()
