"""`genai fleet`: replicas of the local model, placed and scaled by Ray (requirements-fleet.txt, in a checkout)."""

import importlib.util

import typer

from apps.cli.remote import CommandFailure
from apps.cli.serve import run_module

app = typer.Typer(no_args_is_help=True, help="Replicas of the local model on this machine or a Ray cluster.")
OWN_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("up", context_settings=OWN_ARGUMENTS)
def up(context: typer.Context) -> None:
    """Start replicas and keep them until Ctrl-C, as many as the calls need.

    Examples: genai fleet up · genai fleet up --most 4 --cpus 2 · genai fleet up --help
    """
    if importlib.util.find_spec("ray") is None:
        raise CommandFailure("Ray is not installed here: pip install -r requirements-fleet.txt")
    run_module("infra.ray.up", context.args)
