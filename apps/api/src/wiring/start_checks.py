"""What must be there before the service starts; each is asked without an event loop, since a server may run one."""

import asyncio
import os
import threading

from apps.api.src.wiring.stores import build_database, build_key_store
from apps.core.errors import StoreUnavailable
from apps.core.settings import Settings

DATABASE_SECONDS = 3.0


def unwritable(settings: Settings) -> str | None:
    """One line where what is kept has no place in DATA_DIR; nothing is made yet."""
    if settings.database_url.get_secret_value() and settings.secret_key.get_secret_value():
        return None
    nearest = settings.data_dir.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return None
    return "Wrong setting DATA_DIR: must be a folder that can be written to"


def no_key_exists(settings: Settings) -> bool:
    """Where the database does not answer, that is not known, and False: the service then admits no request."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(_is_empty(settings))))
    thread.start()
    thread.join()
    return answers == [True]


async def _is_empty(settings: Settings) -> bool:
    database = build_database(settings)
    await database.start()
    try:
        if not await database.ready(DATABASE_SECONDS):
            return False
        return not (await build_key_store(settings, database).state()).exist
    except StoreUnavailable:
        return False
    finally:
        await database.aclose()
