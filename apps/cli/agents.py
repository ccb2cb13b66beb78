"""`genai agents`: the agents of a service, their runs, and the approvals that runs wait for."""

import json
from typing import Annotated, Any

import typer

from apps.cli.remote import (
    FAILED,
    URL,
    CommandFailure,
    Json,
    Key,
    Service,
    Url,
    print_json,
    print_table,
    print_text,
    printable,
    read_stdin,
)

app = typer.Typer(no_args_is_help=True, help="List agents, run one, decide what a run waits for.")
Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


@app.command("list")
def list_agents(url: Url = URL, key: Key = "", as_json: Json = False) -> None:
    """List the agents with their tools.

    Examples: genai agents list
    """
    found = Service(url, key).get("/agents")
    if as_json:
        print_json(found)
        return
    rows = [
        (agent["name"], agent["answers_by"], ",".join(tool["name"] for tool in agent["tools"]), agent["description"])
        for agent in found["agents"]
    ]
    print_table(("AGENT", "MODEL", "TOOLS", "DESCRIPTION"), rows)


@app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="The agent's name.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="What to do; or piped in.")] = None,
    url: Url = URL,
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Run an agent and print its steps and its answer. A run that waits for an approval says how to give it.

    Examples: genai agents run calculator "What is 17.5% of 2840?"
    """
    prompt = "\n\n".join(part for part in (" ".join(words or ()), read_stdin()) if part.strip())
    if not prompt:
        raise CommandFailure("There is no prompt", 2)
    answer = Service(url, key).post(f"/agents/{name}/run", {"prompt": prompt})
    _print_run(answer, as_json)


@app.command("show")
def show(run_id: Run, url: Url = URL, key: Key = "", as_json: Json = False) -> None:
    """Show a run: its steps, its answer, what it waits for.

    Examples: genai agents show 3f6c...
    """
    _print_run(Service(url, key).get(f"/agents/runs/{run_id}"), as_json)


@app.command("approve")
def approve(run_id: Run, url: Url = URL, key: Key = "", as_json: Json = False) -> None:
    """Approve all calls that a run waits for, and go on with it.

    Examples: genai agents approve 3f6c...
    """
    _print_run(Service(url, key).post(f"/agents/runs/{run_id}/approve"), as_json)


@app.command("deny")
def deny(
    run_id: Run,
    reason: Annotated[str, typer.Option(help="What the model reads about it.")] = "",
    url: Url = URL,
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Deny all calls that a run waits for; the model goes on without them.

    Examples: genai agents deny 3f6c... --reason "Too expensive"
    """
    _print_run(Service(url, key).post(f"/agents/runs/{run_id}/deny", params={"reason": reason}), as_json)


def _print_run(run_answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(run_answer)
    else:
        for step in run_answer["steps"]:
            typer.echo(printable(f"- {json.dumps(step, ensure_ascii=False)}"))
        if run_answer["pending"]:
            for call in run_answer["pending"]:
                typer.echo(printable(f"? {json.dumps(call, ensure_ascii=False)}"))
            typer.echo(f"Waits for an approval: genai agents approve {run_answer['run']} (or deny)")
        print_text([run_answer["answer"]])
    if run_answer["status"] in ("failed", "cancelled"):
        error = run_answer["error"] or {}
        raise CommandFailure(str(error.get("message", f"The run is {run_answer['status']}")), FAILED)
