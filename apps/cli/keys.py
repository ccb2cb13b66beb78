"""What a command ends with where it cannot do its work.

keys create, list, rotate, revoke: the same as /admin/keys, for whoever may use this machine.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from apps.api.src.admin.key_view import KeyView, key_view, status_of
from apps.api.src.wiring.stores import build_database, build_key_store
from apps.core.errors import AppError
from apps.core.settings import Settings
from apps.operations.key_store import KeyStore, StoredKey
from apps.operations.key_terms import KeyTerms


class CommandFailure(Exception):
    """One line for whoever typed the command."""


T = TypeVar("T")
Commands = Any  # argparse does not name the class of its subparsers
DATABASE_SECONDS = 5.0
COLUMNS = ("id", "prefix", "name", "tenant", "status", "expires_at", "budget_usd", "rpm", "tpm", "models", "routes")
HELP = {
    "name": "what its owner calls it",
    "tenant": "whose data it sees (default: a tenant of its own)",
    "models": "patterns of model names, separated by commas; local is the local model (default: *)",
    "routes": "patterns of paths, separated by commas (default: *)",
    "admin": "may call /admin",
    "rpm": "requests a minute",
    "tpm": "tokens a minute",
    "budget-usd": "US dollars a day or a month: 5/month",
    "expires": "90d, 12h, 30m or a date such as 2027-01-31 (default: never)",
    "ip": "addresses and networks it may be used from, separated by commas",
    "semantic-cache": "least cosine at which an answer to another wording may be given: 0.96",
}
LISTS = ("models", "routes", "ip")
TYPES: dict[str, Callable[[str], Any]] = {"rpm": int, "tpm": int, "semantic-cache": float}


def add_to(commands: Commands) -> None:
    keys = commands.add_parser("keys", help="make, list, rotate and revoke keys")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key; it is alone on the last line")
    for name, text in HELP.items():
        if name == "admin":
            create.add_argument("--admin", action="store_true", help=text)
        else:
            create.add_argument(f"--{name}", help=text, required=name == "name", type=TYPES.get(name, str))
    create.set_defaults(run=_create)
    actions.add_parser("list", help="list all keys").set_defaults(run=_list)
    for name, run, text in (
        ("rotate", _rotate, "make a new key on the same terms, alone on the last line; the old one is void at once"),
        ("revoke", _revoke, "end a key: within two seconds everywhere"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("key", metavar="ID_OR_NAME", help="the id of a key, or its name where no other has it")
        action.set_defaults(run=run)


def _create(settings: Settings, given: argparse.Namespace) -> None:
    terms = _terms(given)
    stored, key = _with_store(settings, lambda store: store.create(terms))
    print(f"Key {stored.id} of tenant {stored.caller.tenant}. It is shown this once:")
    print(key)


def _list(settings: Settings, given: argparse.Namespace) -> None:
    now = time.time()
    keys = _with_store(settings, KeyStore.all)
    rows = [list(COLUMNS), *(_row(key_view(key, now)) for key in keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rotate(settings: Settings, given: argparse.Namespace) -> None:
    async def rotate(store: KeyStore) -> tuple[StoredKey, str]:
        return await store.rotate(await _id_of(store, given.key))

    stored, key = _with_store(settings, rotate)
    print(f"Key {stored.id} has a new text; the old one is void. It is shown this once:")
    print(key)


def _revoke(settings: Settings, given: argparse.Namespace) -> None:
    async def revoke(store: KeyStore) -> StoredKey:
        return await store.revoke(await _id_of(store, given.key))

    print(f"Key {_with_store(settings, revoke).id} is revoked")


def _terms(given: argparse.Namespace) -> KeyTerms:
    values: dict[str, Any] = {}
    for option in HELP:
        name = option.replace("-", "_")
        value = getattr(given, name)
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
        if not await database.ready(DATABASE_SECONDS):
            raise CommandFailure("The database of DATABASE_URL or DATA_DIR cannot be used")
        return await work(build_key_store(settings, database))
    except AppError as error:
        raise CommandFailure(error.message) from None
    except OSError as error:
        raise CommandFailure(f"DATA_DIR cannot be used: {error.strerror}") from None
    finally:
        await database.aclose()
