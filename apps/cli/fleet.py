"""`genai fleet`: replicas of the local model, placed and scaled by Ray (requirements-fleet.txt, in a checkout)."""

import importlib.util

import typer

from apps.cli.remote import CommandFailure
from apps.cli.serve import OWN_ARGUMENTS, PassingOn, run_module

app = typer.Typer(no_args_is_help=True, help="Replicas of the local model on this machine or a Ray cluster.")


@app.command("up", cls=PassingOn, context_settings=OWN_ARGUMENTS)
def up(context: typer.Context) -> None:
    """Start replicas and keep them until Ctrl-C, as many as the calls need.

    --least (1) and --most (3) bound the replicas, --cpus (1) are each one's cores, --port is where the list of them
    is, and --downscale-delay (60) the seconds before a replica too many ends.

    Examples: genai fleet up · genai fleet up --most 4 --cpus 2
    """
    if importlib.util.find_spec("ray") is None:
        raise CommandFailure("Ray is not installed here: pip install -r requirements-fleet.txt")
    run_module("infra.ray.up", context.args)
