"""`genai doctor`: what a service needs on this machine, checked one by one."""

import asyncio
import importlib.util
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import httpx2
import redis
import typer

from apps.api.src.wiring.services import DATABASE_SECONDS, unwritable
from apps.api.src.wiring.stores import build_database
from apps.cli.remote import Json, print_json, print_table
from apps.core.settings import Settings, SettingsError, load_settings
from apps.gateway.routing.config import GatewayConfigError, load_gateway_config
from apps.local.checkpoint import looks_like_folder
from apps.local.engine.kernel.build import compiler, cpu_flags, library_path, usable_variants
from apps.local.engine.port import NoKernel
from apps.local.loading import PLAIN_REQUIRED, REQUIRED

Status = Literal["ok", "note", "fault"]
FAULTY = 1
SECONDS = 3.0
GIBIBYTE = 1 << 30
LEAST_DISK = 5 * GIBIBYTE


@dataclass(frozen=True, slots=True)
class Check:
    """What was found of one thing: ``ok``, a ``note`` that the service can live with, or a ``fault``."""

    name: str
    status: Status
    text: str


def doctor(as_json: Json = False) -> None:
    """Check settings, port, model, upstreams, stores and disk. Exit status 1: a fault.

    Examples: genai doctor · genai doctor --json
    """
    try:
        settings = load_settings()
    except SettingsError as error:
        checks = [Check("settings", "fault", str(error))]
    else:
        checks = [Check("settings", "ok", f"ENV={settings.env}"), *_all(settings)]
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        print_table(("CHECK", "STATUS", "FOUND"), [(check.name, check.status, check.text) for check in checks])
    if any(check.status == "fault" for check in checks):
        raise typer.Exit(FAULTY)


def _all(settings: Settings) -> Iterator[Check]:
    looks: tuple[tuple[str, Callable[[Settings], tuple[Status, str]]], ...] = (
        ("port", _port),
        ("local packages", _packages),
        ("kernels", _kernels),
        ("local model", _local_model),
        ("routing file", _routing_file),
        ("cloud upstream", _upstream),
        ("redis", _redis),
        ("database", _database),
        ("disk", _disk),
    )
    for name, look in looks:
        yield Check(name, *look(settings))


def _port(settings: Settings) -> tuple[Status, str]:
    where = f"{settings.api_host}:{settings.api_port}"
    with socket.socket(socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.api_host, settings.api_port))
        except OSError as error:
            taken = _answers(settings.api_port)
            return ("ok", f"a service of ours answers at {where}") if taken else ("fault", f"{where}: {error.strerror}")
    return "ok", f"{where} is free"


def _answers(port: int) -> bool:
    try:
        answer = httpx2.get(f"http://127.0.0.1:{port}/health", timeout=SECONDS, trust_env=False)
        return bool(answer.json() == {"status": "ok"})
    except (httpx2.HTTPError, ValueError):
        return False


def _packages(settings: Settings) -> tuple[Status, str]:
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        return "note", f"no local model: {', '.join(missing)} not installed (make setup)"
    if any(importlib.util.find_spec(name) is None for name in PLAIN_REQUIRED):
        return "note", "installed for the project's own kernels alone: without torch and transformers"
    return "ok", "installed"


def _kernels(settings: Settings) -> tuple[Status, str]:
    try:
        variant = usable_variants(cpu_flags())[0]
    except NoKernel as error:
        return "note", f"torch's own kernels serve: {error}"
    built = library_path(variant, settings.model_cache_dir)
    if built.is_file():
        return "ok", f"{variant.name}, built: the project's own kernels serve"
    try:
        return "note", f"{variant.name}, built at the first start by {' '.join(compiler())}"
    except NoKernel as error:
        return "note", f"{variant.name} fits this CPU, torch's own kernels serve: {error}"


def _local_model(settings: Settings) -> tuple[Status, str]:
    name = settings.local_model
    if looks_like_folder(name):
        there = (Path(name).expanduser() / "config.json").is_file()
        return ("ok", "the folder has a checkpoint") if there else ("fault", "the folder of LOCAL_MODEL has none")
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        httpx2.head(hub, timeout=SECONDS)
    except httpx2.HTTPError as error:
        instead = "the packaged model serves" if settings.local_fallback == "packaged" else "a cached one must serve"
        return "note", f"the hub cannot be reached ({type(error).__name__}): {instead} unless {name} is cached"
    return "ok", f"the hub answers; {name} comes from there, once"


def _routing_file(settings: Settings) -> tuple[Status, str]:
    if settings.gateway_config is None:
        return "ok", "none: the default routing serves"
    try:
        config = load_gateway_config(settings.gateway_config)
    except GatewayConfigError as error:
        return "fault", str(error)
    return "ok", f"{len(config.providers)} providers, {len(config.models)} models"


def _upstream(settings: Settings) -> tuple[Status, str]:
    key = settings.openai_api_key.get_secret_value()
    ours = settings.openai_base_url == Settings.model_fields["openai_base_url"].default
    if not key and ours:
        return "note", "not configured: set OPENAI_API_KEY or OPENAI_BASE_URL for /generate"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx2.get(f"{settings.openai_base_url.rstrip('/')}/models", headers=headers, timeout=SECONDS)
    except httpx2.HTTPError as error:
        return "fault", f"cannot be reached: {type(error).__name__}"
    if answer.status_code in (401, 403):
        return "fault", f"refuses the key (HTTP {answer.status_code})"
    return "ok", f"answers (HTTP {answer.status_code})"


def _redis(settings: Settings) -> tuple[Status, str]:
    addresses = {one for one in (settings.rate_limit_storage, settings.cache_storage) if one.startswith("redis")}
    if not addresses:
        return "ok", "not used"
    others = {one for one in addresses if one.startswith("redis+")}
    for address in addresses - others:
        try:
            with redis.Redis.from_url(address, socket_timeout=SECONDS, socket_connect_timeout=SECONDS) as client:
                client.ping()
        except (redis.RedisError, ValueError) as error:
            return "fault", f"does not answer: {type(error).__name__}"
    return ("note", "Unix sockets and clusters are not tried here") if others else ("ok", "answers")


def _database(settings: Settings) -> tuple[Status, str]:
    if fault := unwritable(settings):
        return "fault", fault
    kind = "PostgreSQL" if settings.database_url.get_secret_value() else "SQLite"
    if kind == "SQLite" and not settings.data_dir.exists():
        return "ok", f"{kind}, made at the first start"
    within = max(DATABASE_SECONDS, settings.database_timeout)
    if asyncio.run(_usable(settings, within)):
        return "ok", f"{kind} answers"
    return "fault", f"{kind} could not be opened within {within:g} s"


async def _usable(settings: Settings, within: float) -> bool:
    database = build_database(settings)
    await database.start()
    try:
        return await database.ready(within)
    finally:
        await database.aclose()


def _disk(settings: Settings) -> tuple[Status, str]:
    free = min(shutil.disk_usage(_existing(folder)).free for folder in (settings.data_dir, settings.model_cache_dir))
    return ("ok" if free >= LEAST_DISK else "note"), f"{free / GIBIBYTE:.1f} GiB free"


def _existing(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
