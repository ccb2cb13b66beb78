"""A set of replicas at work: finds them, probes each, and gives up what runs on one that is lost.

A replica is an upstream whose words are our own, so that its errors stay what they are. Where replicas are is said by
addresses as they are, by names that are resolved to all of their addresses, and by lists that others keep.
"""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pydantic import ValidationError

from apps.core.errors import AppError, UpstreamError, error_of_envelope
from apps.gateway.protocol import TraceHeaders, WireCall, WireReply
from apps.gateway.replicas.table import Replica, ReplicaTable
from apps.gateway.routing.config import ProviderConfig
from apps.gateway.upstream.access import access_headers, beginning, patience_for_words
from apps.gateway.upstream.http_target import HttpTarget
from apps.models.capacity import Capacity, Kind
from apps.models.upstream_errors import parse_retry_after, status_error
from apps.transport.client import Client
from apps.transport.response import ConnectionFailed, HttpFailure

if TYPE_CHECKING:
    from apps.transport.response import Response

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

    @property
    def is_fixed(self) -> bool:
        """Whether it finds the same addresses each time."""
        return not any(address.startswith((DNS, LIST)) for address in self._addresses)

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


# what the gateway says of a call beside its body; a replica believes it of those who know the fleet's secret
TENANT, FITS = "X-Fleet-Tenant", "X-Fleet-Fits"
MILLISECONDS = 1000


class ReplicaWire(HttpTarget):
    """Sends the tenant along, whose computed prompts the replica may use; notes what it tells of the call."""

    def _more_headers(self, call: WireCall) -> Mapping[str, str] | None:
        more = {**(super()._more_headers(call) or {}), TENANT: quote(call.caller.tenant, safe="")}
        return {**more, FITS: "1"} if call.fits else more

    async def _error_body(self, response: "Response", call: WireCall, model: str, until: float) -> bytes:
        return await beginning(response, min(until, patience_for_words(self._provider)))

    def _refusal(self, response: "Response", body: bytes) -> AppError:
        if response.status == 401:
            return UpstreamError("The replica does not know the fleet's secret", upstream_status=401)
        refusal = error_of_envelope(_error_in(body), parse_retry_after(response.headers))
        return refusal if refusal is not None else status_error(response.status, response.headers)

    async def _reply(
        self, call: WireCall, response: "Response", begins: float, ends: float, *, hidden: bool
    ) -> WireReply:
        reply = await super()._reply(call, response, begins, ends, hidden=hidden)
        if call.record is not None:
            call.record.model = response.header(b"x-model") or call.record.model
            queued = response.header(b"x-queue-ms") or ""
            call.record.queued += float(queued) / MILLISECONDS if queued.replace(".", "", 1).isdigit() else 0.0
        return reply


def _error_in(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else {}


LONGEST_PROBE = 0.75
REFRESH_SECONDS = 3.0
FIRST_SECONDS = 1.5
CAPACITY = "/v1/capacity"
LARGEST_CAPACITY = 65_536


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two probes of a replica while there are calls, and later than ``calm`` seconds after the last.

    The first call after that has all of them probed at once. One that is not well is always probed as if there were
    calls.
    """

    busy: float = 0.25
    idle: float = 1.0
    calm: float = 5.0


@dataclass(slots=True, eq=False)
class Member:
    """A replica, and how it is called and probed."""

    replica: Replica
    wire: ReplicaWire
    probes: Client
    task: asyncio.Task[None] | None = None


class ReplicaSet:
    """The replicas of one provider. Starts by itself with the first call; `start` begins before that."""

    def __init__(
        self,
        config: ProviderConfig,
        secret: str,
        trace: TraceHeaders | None = None,
        discovery: Discovery | None = None,
        table: ReplicaTable | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._pace = pace or Pace()
        self.table = table or ReplicaTable()
        self._config = config
        self._secret = secret
        self._trace = trace
        self._discovery = discovery or Discovery(config.addresses)
        self._members: dict[str, Member] = {}
        self._finding: asyncio.Task[None] | None = None
        self._first: asyncio.Event | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._again: asyncio.Task[None] | None = None
        self._chosen_at = 0.0
        self._called = asyncio.Event()

    def start(self) -> None:
        """Begin to find and to probe them; needs a running event loop."""
        if self._finding is None:
            self._note_call()
            self._first = asyncio.Event()
            self._finding = asyncio.create_task(self._keep_finding())

    async def aclose(self) -> None:
        """End the probes and close all connections: what runs on them is cut."""
        finding, self._finding = self._finding, None
        tasks = [task for task in (finding, *(member.task for member in self._members.values())) if task is not None]
        tasks += self._leaving
        if self._again is not None:
            tasks.append(self._again)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for member in self._members.values():
            await member.wire.aclose()
            await member.probes.aclose()
        self._members.clear()

    async def choose(self, key: bytes, kind: Kind, name: str, tried: Collection[str] = ()) -> Member | None:
        """Who takes a call; None where none can. Right after the start it waits for the first answers."""
        self.start()
        self._note_call()
        replica = self.table.choose(key, kind, name, tried)
        if replica is None and not tried and self._first is not None and not self._first.is_set():
            try:
                async with asyncio.timeout(FIRST_SECONDS):
                    await self._first.wait()
            except TimeoutError:
                # no call after this one waits for what may never come
                self._first.set()
                log.warning("No replica has answered within %g s", FIRST_SECONDS)
            replica = self.table.choose(key, kind, name, tried)
        if replica is None and not tried:
            await self._look_again()
            replica = self.table.choose(key, kind, name, tried)
        return None if replica is None else self._members.get(replica.address)

    async def _look_again(self) -> None:
        """What is known may be a second old, and a model ready since. Calls that come meanwhile share one look."""
        # those that wait for a look may have left before its end
        if self._again is None or self._again.done():
            self._again = asyncio.create_task(self._ask_all())
        await asyncio.wait({self._again})

    async def _ask_all(self) -> None:
        async def ask(member: Member) -> None:
            in_flight = member.replica.in_flight.copy()
            # what goes wrong is the next probe's to say
            with suppress(HttpFailure, TimeoutError, _Refused):
                self.table.probe_answered(member.replica, await self._probe(member), in_flight)

        await asyncio.gather(*(ask(member) for member in self._members.values() if member.replica.standing == "ready"))

    def _note_call(self) -> None:
        """Probe often from now on, for a while."""
        before, self._chosen_at = self._chosen_at, asyncio.get_running_loop().time()
        if self._chosen_at - before > self._pace.calm:
            called, self._called = self._called, asyncio.Event()
            called.set()

    async def _pause(self, replica: Replica) -> None:
        """Until its next probe."""
        idle = asyncio.get_running_loop().time() - self._chosen_at > self._pace.calm
        if not idle or not replica.is_well or any(m.replica.in_flight.total() for m in self._members.values()):
            await asyncio.sleep(self._pace.busy)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.idle):
                await self._called.wait()

    async def _keep_finding(self) -> None:
        while True:
            try:
                await self._find()
                if self._discovery.is_fixed:
                    return
            except Exception:
                # calls go on to the replicas that are known
                log.exception("The replicas cannot be looked up")
            await asyncio.sleep(REFRESH_SECONDS)

    async def _find(self) -> None:
        new, gone = self.table.update(await self._discovery.find())
        for replica in gone:
            if (member := self._members.pop(replica.address, None)) is not None:
                self._part(member)
        for replica in new:
            try:
                member = Member(replica, self._wire_to(replica), self._client_of(replica))
            except (HttpFailure, ValueError):
                log.error("The replica's address %s is not valid", replica.address)
                self.table.missed(replica, "Its address is not valid", refused=True)
                continue
            self._members[replica.address] = member
            member.task = asyncio.create_task(self._keep_probing(member))

    def _part(self, member: Member) -> None:
        """Leave a replica whose address is not listed any more; what runs there ends by itself."""

        async def leave() -> None:
            if member.task is not None:
                member.task.cancel()
                await asyncio.wait({member.task})
            while member.replica.in_flight.total():  # noqa: ASYNC110 - calls are counted, and no task waits for this
                await asyncio.sleep(self._pace.busy)
            await member.wire.aclose()
            await member.probes.aclose()

        self._aside(leave())

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        """Run a task that is waited for at the end alone."""
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _keep_probing(self, member: Member) -> None:
        table, replica = self.table, member.replica
        while True:
            before = replica.standing
            table.probe_sent(replica)
            in_flight = replica.in_flight.copy()
            try:
                table.probe_answered(replica, await self._probe(member), in_flight)
            except ConnectionFailed:
                table.missed(replica, "Nobody listens there", refused=True)
            except (HttpFailure, TimeoutError):
                table.missed(replica, "It does not answer in time")
            except _Refused as error:
                table.missed(replica, str(error), refused=True)
            if self._first is not None and all(m.replica.standing != "unknown" for m in self._members.values()):
                self._first.set()
            if replica.standing != before:
                log.info("The replica %s is %s: %s", replica.address, replica.standing, replica.reason)
            if table.is_lost(replica) and (calls := replica.in_flight.total()):
                log.warning("The replica %s is lost with %d calls on it", replica.address, calls)
                lost, member.wire = member.wire, self._wire_to(replica)
                # cuts its connections: what waits for a first token there goes elsewhere
                self._aside(lost.aclose())
            await self._pause(replica)

    async def control_texts(self, name: str) -> list[str] | None:
        """Texts that the tokenizer of a model reads as more than text; None where no replica tells."""
        member = await self.choose(b"", "chat", name)
        if member is None:
            return None
        try:
            capacity = await self._probe(member, CAPACITY + "?control_texts=true")
        except (HttpFailure, TimeoutError, _Refused):
            return None
        return next((model.control_texts for model in capacity.models if model.kind == "chat"), None)

    async def _probe(self, member: Member, path: str = CAPACITY) -> Capacity:
        until = asyncio.get_running_loop().time() + LONGEST_PROBE
        response = await member.probes.get(member.replica.address + path, until)
        try:
            body = b""
            while len(body) < LARGEST_CAPACITY and (chunk := await response.chunk(LONGEST_PROBE, until)):
                body += chunk
        finally:
            response.close()
        if response.status == 401:
            raise _Refused("It does not know the fleet's secret: FLEET_SECRET must be the same on both sides")
        if response.status != 200:
            raise _Refused(f"It answers {response.status} to {CAPACITY}: is it this service?")
        try:
            return Capacity.model_validate_json(body)
        except ValidationError:
            raise _Refused(f"What it answers to {CAPACITY} is no capacity") from None

    def _wire_to(self, replica: Replica) -> ReplicaWire:
        config = self._config.model_copy(
            update={
                "kind": "openai",
                "base_url": f"{replica.address}/v1",
                "api_key_env": self._config.api_key_env if self._secret else "",
            }
        )
        return ReplicaWire(config, self._secret, self._trace)

    def _client_of(self, replica: Replica) -> Client:
        headers = access_headers(self._config, self._secret)
        return Client(replica.address, headers, LONGEST_PROBE)


class _Refused(Exception):
    """A probe was answered, and not by a replica of this fleet."""
