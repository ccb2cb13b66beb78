"""Where replicas are: addresses as they are, names resolved to all of their addresses, lists that others keep."""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from apps.transport.client import Client
from apps.transport.response import HttpFailure

log = logging.getLogger(__name__)

DNS = "dns://"
LIST = "list+"
LIST_SECONDS = 2.0
LONGEST_LIST = 1_048_576
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
Address = re.compile(r"https?://[^/\s?#]+")


class Discovery:
    """Base addresses of replicas: ``http://host:port``, ``https://...`` and ``http+unix://...`` as they are.

    ``dns://name:port`` is every A and AAAA record of a name: a headless service, or compose's scaled one;
    ``list+http://host:port/path`` is an array of addresses in JSON, which an engine that places replicas keeps. What
    cannot be asked now keeps the addresses that it had.
    """

    def __init__(self, addresses: Sequence[str], lookup: Lookup | None = None) -> None:
        self._addresses = addresses
        self._lookup = lookup or _resolve
        self._known: dict[str, list[str]] = {}

    async def find(self) -> list[str]:
        """The addresses as of now, in the file's order, each once."""
        found: list[str] = []
        for address in self._addresses:
            if address.startswith(DNS):
                found += await self._named(address)
            elif address.startswith(LIST):
                found += await self._listed(address)
            else:
                found.append(address.rstrip("/"))
        return list(dict.fromkeys(found))

    async def _named(self, address: str) -> list[str]:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or 80
        try:
            hosts = await self._lookup(host, port)
        except OSError as error:
            log.warning("The name %s cannot be resolved (%s): its replicas stay as they were", host, error.strerror)
            return self._known.get(address, [])
        self._known[address] = [f"http://{f'[{one}]' if ':' in one else one}:{port}" for one in sorted(set(hosts))]
        return self._known[address]

    async def _listed(self, address: str) -> list[str]:
        url = address.removeprefix(LIST)
        try:
            listed = json.loads(await _fetch(url))
            if not isinstance(listed, list) or not all(isinstance(a, str) and Address.fullmatch(a) for a in listed):
                raise ValueError("no array of addresses")
        except (HttpFailure, TimeoutError, ValueError, RecursionError) as error:
            log.warning("The list at %s cannot be read (%s): its replicas stay as they were", url, type(error).__name__)
            return self._known.get(address, [])
        self._known[address] = listed
        return listed


async def _fetch(url: str) -> bytes:
    """The body of what is at an address. Raises HttpFailure, TimeoutError, and ValueError for no 200."""
    client = Client(url, {}, LIST_SECONDS)
    try:
        response = await client.stream("GET", url, None, None, {}, LIST_SECONDS)
        until, body = asyncio.get_running_loop().time() + LIST_SECONDS, b""
        while len(body) < LONGEST_LIST and (chunk := await response.chunk(LIST_SECONDS, until)):
            body += chunk
        response.close()
        if response.status != 200:
            raise ValueError("not found")
        return body
    finally:
        await client.aclose()


async def _resolve(host: str, port: int) -> Sequence[str]:
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]).partition("%")[0] for *_, address in infos]
