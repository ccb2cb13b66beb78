"""`genai models`, `genai route explain` and `genai usage`: what the service says of itself."""

from typing import Annotated

import typer

from apps.cli.remote import URL, Json, Key, Service, Url, in_a_line, print_json, print_table

route_app = typer.Typer(no_args_is_help=True, help="What the router would do with a call.")
Day = Annotated[str | None, typer.Option(help="A day as 2026-11-01, in UTC.")]


def models(url: Url = URL, key: Key = "", as_json: Json = False) -> None:
    """List the models that can be asked, and whether each is ready.

    Examples: genai models · genai models --json
    """
    found = Service(url, key).get("/v1/models")
    if as_json:
        print_json(found)
        return
    rows = [(model["id"], model.get("status"), model.get("owned_by"), model.get("reason")) for model in found["data"]]
    print_table(("MODEL", "STATUS", "PROVIDER", "REASON"), rows)


@route_app.command("explain")
def explain(
    model: Annotated[str, typer.Argument(help="A model's name as a caller would send it.")],
    url: Url = URL,
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Show which targets a call for MODEL would be tried on, in order, and why.

    Examples: genai route explain gpt-4o-mini
    """
    plan = Service(url, key).get("/v1/route", {"model": model})
    if as_json:
        print_json(plan)
        return
    for name, value in plan.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            typer.echo(f"{name}:")
            columns = tuple(value[0])
            print_table(tuple(column.upper() for column in columns), [[row.get(c) for c in columns] for row in value])
        else:
            typer.echo(f"{name}: {in_a_line(value)}")


def usage(
    group_by: Annotated[str, typer.Option(help="Some of day, key, model, route; commas between them.")] = "day,model",
    first: Annotated[str | None, typer.Option("--from", help="First day, as 2026-11-01, in UTC.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All tenants; needs an admin key.")] = False,
    url: Url = URL,
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Show calls, tokens and cost.

    Examples: genai usage · genai usage --group-by model --from 2026-11-01 · genai usage --all --group-by tenant
    """
    given = {"group_by": group_by, "from": first, "to": last}
    filters = {name: value for name, value in given.items() if value is not None}
    path = "/admin/usage" if everyone else "/v1/usage"
    report = Service(url, key, patient=True).get_all(path, "data", ("next_offset", "offset"), filters)
    if as_json:
        print_json(report)
        return
    rows = report["data"]
    if not rows:
        typer.echo("No calls in these days")
        return
    columns = tuple(rows[0])
    print_table(columns, [[row.get(column) for column in columns] for row in rows])
