"""`genai serve`, `genai bench`, `genai mcp` and `genai fleet`: the service, and what measures, bridges and places it.

A fleet is replicas of the local model, placed and scaled by Ray (requirements-fleet.txt, in a checkout).
"""

import importlib
import importlib.util
import os
import runpy
import sys
from typing import Annotated, Literal

import typer
from typer.core import TyperCommand

from apps.cli.remote import URL, CommandFailure, Key, Url
from apps.core.settings import load_settings

# options of a command that belong to the program that it runs, its help among them
OWN_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


class PassingOn(TyperCommand):
    """A command with OWN_ARGUMENTS: only a `--help` that comes first asks for its own help."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args[:1] == ["--help"]:
            typer.echo(self.get_help(ctx))
            raise typer.Exit
        return super().parse_args(ctx, args)


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
    # the app is built when it is imported, with the settings of that moment, and knows by this import that our own
    # server runs it
    importlib.import_module("apps.api.src.http.server")
    from apps.api.src.main import serve as serve_app

    serve_app()


BENCHES = {"gateway": "eval.bench_gateway", "local": "eval.bench_local", "rag": "eval.rag_eval"}


def bench(
    context: typer.Context,
    what: Annotated[Literal["gateway", "local", "rag"], typer.Argument(help="What is measured.")],
) -> None:
    """Measure the gateway, the local model or retrieval. Needs the repository.

    Examples: genai bench gateway · genai bench local --help
    """
    run_module(BENCHES[what], context.args)


def mcp(url: Url = URL, key: Key = "") -> None:
    """Serve this service's MCP tools on standard input and output.

    Examples: genai mcp --url http://localhost:8000
    """
    # mcp is heavy, and only this command needs it
    from apps.agents.mcp_bridge import serve_bridge

    serve_bridge(f"{url.rstrip('/')}/mcp", key)


def run_module(module: str, arguments: list[str]) -> None:
    """Run a module of the repository as a program. Raises CommandFailure outside of a checkout."""
    try:
        importlib.import_module(module.partition(".")[0])
    except ModuleNotFoundError:
        raise CommandFailure("This is part of the repository: run it in a checkout") from None
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


fleet_app = typer.Typer(no_args_is_help=True, help="Replicas of the local model on this machine or a Ray cluster.")


@fleet_app.command("up", cls=PassingOn, context_settings=OWN_ARGUMENTS)
def up(context: typer.Context) -> None:
    """Start replicas and keep them until Ctrl-C, as many as the calls need.

    --least (1) and --most (3) bound the replicas, --cpus (1) are each one's cores, --port is where the list of them
    is, and --downscale-delay (60) the seconds before a replica too many ends.

    Examples: genai fleet up · genai fleet up --most 4 --cpus 2
    """
    if importlib.util.find_spec("ray") is None:
        raise CommandFailure("Ray is not installed here: pip install -r requirements-fleet.txt")
    run_module("infra.ray.up", context.args)
