"""`genai serve`: the service itself, with the settings of the environment and of `.env`."""

import os
from typing import Annotated

import typer


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (API_HOST).")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on (API_PORT).")] = None,
    local_model: Annotated[
        str | None, typer.Option(help="The local model: a hub name or a folder (LOCAL_MODEL).")
    ] = None,
) -> None:
    """Start the service. Settings come from the environment and `.env`; the options go before both.

    Examples: genai serve · genai serve --port 8080
    """
    for name, value in (("API_HOST", host), ("API_PORT", port), ("LOCAL_MODEL", local_model)):
        if value is not None:
            os.environ[name] = str(value)
    # the app is built when it is imported, with the settings of that moment
    from apps.api.src.main import serve as serve_app

    serve_app()
