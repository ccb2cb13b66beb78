"""`genai keys`: keys on the database of the settings, whether or not the service runs; the same as /admin/keys."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from apps.api.src.admin.key_routes import KeyView, key_view, status_of
from apps.api.src.wiring.stores import build_database, build_key_store
from apps.cli.remote import CommandFailure, Json, print_json
from apps.core.errors import AppError
from apps.core.settings import Settings, load_settings
from apps.operations.key_store import KeyStore, StoredKey
from apps.operations.key_terms import KeyTerms

T = TypeVar("T")
DATABASE_SECONDS = 5.0
COLUMNS = ("id", "prefix", "name", "tenant", "status", "expires_at", "budget_usd", "rpm", "tpm", "models", "routes")
LISTS = ("models", "routes", "ip")

app = typer.Typer(no_args_is_help=True, help="Make, list, rotate and revoke keys.")
Which = Annotated[str, typer.Argument(metavar="ID_OR_NAME", help="A key's id, or its name where no other has it.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Option(help="What its owner calls it.")],
    tenant: Annotated[str | None, typer.Option(help="Whose data it sees (default: a tenant of its own).")] = None,
    models: Annotated[str | None, typer.Option(help="Patterns of model names, commas between (default: *).")] = None,
    routes: Annotated[str | None, typer.Option(help="Patterns of paths, commas between (default: *).")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May call /admin.")] = False,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute.")] = None,
    budget_usd: Annotated[str | None, typer.Option(help="US dollars a day or a month: 5/month.")] = None,
    expires: Annotated[str | None, typer.Option(help="90d, 12h, 30m or 2027-01-31 (default: never).")] = None,
    ip: Annotated[str | None, typer.Option(help="Addresses and networks it is used from, commas between.")] = None,
    semantic_cache: Annotated[
        float | None, typer.Option(help="Least cosine at which a cached answer to another wording counts: 0.96.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown once, alone on the last line.

    Examples: genai keys create --name ci --models local --rpm 60 --budget-usd 5/month --expires 90d
    """
    given = {
        "name": name,
        "tenant": tenant,
        "models": models,
        "routes": routes,
        "admin": admin or None,
        "rpm": rpm,
        "tpm": tpm,
        "budget_usd": budget_usd,
        "expires": expires,
        "ip": ip,
        "semantic_cache": semantic_cache,
    }
    terms = _terms(given)
    stored, key = _with_store(load_settings(), lambda store: store.create(terms))
    if as_json:
        print_json({"id": stored.id, "tenant": stored.caller.tenant, "key": key})
        return
    typer.echo(f"Key {stored.id} of tenant {stored.caller.tenant}. It is shown this once:")
    typer.echo(key)


@app.command("list")
def list_keys(as_json: Json = False) -> None:
    """List all keys. Never shows a key itself.

    Examples: genai keys list
    """
    now = time.time()
    views = [key_view(key, now) for key in _with_store(load_settings(), KeyStore.all)]
    if as_json:
        print_json([view.model_dump(mode="json") for view in views])
        return
    rows = [list(COLUMNS), *map(_row, views)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command("rotate")
def rotate(which: Which, as_json: Json = False) -> None:
    """Make a new key on the same terms, alone on the last line; the old one is void at once.

    Examples: genai keys rotate ci
    """

    async def work(store: KeyStore) -> tuple[StoredKey, str]:
        return await store.rotate(await _id_of(store, which))

    stored, key = _with_store(load_settings(), work)
    if as_json:
        print_json({"id": stored.id, "tenant": stored.caller.tenant, "key": key})
        return
    typer.echo(f"Key {stored.id} has a new text; the old one is void. It is shown this once:")
    typer.echo(key)


@app.command("revoke")
def revoke(which: Which) -> None:
    """End a key: within two seconds everywhere.

    Examples: genai keys revoke ci
    """

    async def work(store: KeyStore) -> StoredKey:
        return await store.revoke(await _id_of(store, which))

    typer.echo(f"Key {_with_store(load_settings(), work).id} is revoked")


def _terms(given: dict[str, Any]) -> KeyTerms:
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is not None:
            values[name] = [part.strip() for part in value.split(",")] if name in LISTS else value
    try:
        return KeyTerms(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        option = name.replace("_", "-")
        # which of several is wrong
        which = f"entry {int(first['loc'][1]) + 1} " if name in LISTS and len(values[name]) > 1 else ""
        raise CommandFailure(f"--{option}: {which}{first['msg'].removeprefix('Value error, ')}") from None


def _row(key: KeyView) -> list[str]:
    values = (getattr(key, column) for column in COLUMNS)
    return [",".join(value) if isinstance(value, list) else "-" if value is None else str(value) for value in values]


async def _id_of(store: KeyStore, word: str) -> str:
    keys, now = await store.all(), time.time()
    if any(key.id == word for key in keys):
        return word
    named = [key.id for key in keys if key.caller.name == word and status_of(key, now) != "revoked"]
    if len(named) == 1:
        return named[0]
    raise CommandFailure(f"{len(named) or 'No'} live keys are named so: give the id, as keys list shows it")


def _with_store(settings: Settings, work: Callable[[KeyStore], Awaitable[T]]) -> T:
    """Raises CommandFailure where the database or the store refuses."""
    return asyncio.run(_on_database(settings, work))


async def _on_database(settings: Settings, work: Callable[[KeyStore], Awaitable[T]]) -> T:
    database = build_database(settings)
    await database.start()
    try:
        if not await database.ready(max(DATABASE_SECONDS, settings.database_timeout)):
            raise CommandFailure("The database of DATABASE_URL or DATA_DIR cannot be used")
        return await work(build_key_store(settings, database))
    except AppError as error:
        raise CommandFailure(error.message) from None
    except OSError as error:
        raise CommandFailure(f"DATA_DIR cannot be used: {error.strerror}") from None
    finally:
        await database.aclose()
