"""`genai bench` and `genai mcp`: what measures and bridges a service."""

import importlib
import runpy
import sys
from typing import Annotated, Literal

import typer

from apps.cli.remote import URL, CommandFailure, Key, Url

BENCHES = {"gateway": "eval.bench_gateway", "local": "eval.bench_local", "rag": "eval.rag_eval"}


def bench(
    context: typer.Context,
    what: Annotated[Literal["gateway", "local", "rag"], typer.Argument(help="What is measured.")],
) -> None:
    """Measure the gateway, the local model or retrieval against yardsticks in the same run. Needs the repository.

    Examples: genai bench gateway · genai bench local --help
    """
    run_module(BENCHES[what], context.args)


def mcp(url: Url = URL, key: Key = "") -> None:
    """Serve this service's MCP tools on standard input and output, for clients that start programs.

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
