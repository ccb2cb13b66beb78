"""Replicas: who a call goes to, and who is left out, by a clock that the test sets."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from apps.core.callers import Caller
from apps.core.messages import ChatRequest
from apps.gateway.protocol import WireCall
from apps.gateway.replicas.replica_set import Discovery, Pace, ReplicaSet
from apps.gateway.replicas.table import MOST_PLACES, Load, Replica, ReplicaTable, Ring, affinity
from apps.gateway.replicas.target import ReplicaModel, ReplicaTarget
from apps.gateway.routing.config import ProviderConfig
from apps.models.capacity import Capacity, ModelCapacity
from apps.tests.support.clock import Clock

NAMES = [f"http://10.0.0.{number}:8000" for number in range(1, 6)]
IDLE = {name: Load(0, 4) for name in NAMES}


def capacity(draining: bool = False, **facts: Any) -> Capacity:
    known: dict[str, Any] = {"slots": 4, "running": 0, "waiting": 0, "queue_size": 16, "context": 2048}
    told = ModelCapacity(id="tiny", kind="chat", status=facts.pop("status", "ready"), reason="", **{**known, **facts})
    return Capacity(draining=draining, models=[told])


def table(count: int = 3, **facts: Any) -> tuple[ReplicaTable, Clock, list[Replica]]:
    clock = Clock(100.0)
    made = ReplicaTable(clock)
    new, _ = made.update(NAMES[:count])
    for replica in new:
        made.probe_answered(replica, capacity(**facts), {})
    return made, clock, new


def test_a_key_finds_the_same_place_and_keys_spread() -> None:
    ring, listed_otherwise = Ring(NAMES), Ring(list(reversed(NAMES)))
    places = [ring.place(b"%d" % key, IDLE) for key in range(2000)]
    assert places == [listed_otherwise.place(b"%d" % key, IDLE) for key in range(2000)]
    assert all(200 < count < 700 for count in Counter(places).values())


def test_a_replica_that_goes_moves_its_own_keys_alone() -> None:
    before, after = Ring(NAMES), Ring(NAMES[:-1])
    left = {name: Load(0, 4) for name in NAMES[:-1]}
    for key in range(500):
        was, now = before.place(b"%d" % key, IDLE), after.place(b"%d" % key, left)
        assert was == now or was == NAMES[-1]


def test_no_replica_gets_much_more_than_its_share() -> None:
    ring = Ring(NAMES)
    loads = dict.fromkeys(NAMES, Load(0, 4))
    for _ in range(100):
        place = ring.place(b"everybody's", loads)
        assert place is not None
        loads[place] = Load(loads[place].calls + 1, 4)
    assert sum(load.calls for load in loads.values()) == 100
    assert max(load.calls for load in loads.values()) <= 22
    # a conversation that was there before is let in a little longer, and then not
    home = max(loads, key=lambda name: loads[name].calls)
    assert ring.place(b"followed up", loads, home) == home
    assert ring.place(b"followed up", {**loads, home: Load(60, 4)}, home) != home


def test_follow_up_turns_find_their_replica_under_load() -> None:
    chance = random.Random(7)
    made, _, replicas = table(3)
    running: dict[int, Replica] = {}
    places: dict[int, Replica] = {}
    found, asked = 0, 0
    for _ in range(4000):
        for number in [number for number in running if chance.random() < 0.3]:
            running.pop(number).in_flight["chat"] -= 1
        number = chance.randrange(16)
        if number in running:
            continue
        chosen = made.choose(b"conversation %d" % number, "chat", "tiny")
        assert chosen is not None
        asked += number in places
        found += places.get(number) is chosen
        places[number] = running[number] = chosen
        chosen.in_flight["chat"] += 1
    assert asked > 1000 and found / asked > 0.9 and {id(one) for one in places.values()} == set(map(id, replicas))


def test_a_replica_with_more_slots_gets_more() -> None:
    ring = Ring(NAMES[:2])
    loads = {NAMES[0]: Load(0, 8), NAMES[1]: Load(0, 2)}
    for number in range(100):
        place = ring.place(b"%d" % number, loads)
        assert place is not None
        loads[place] = Load(loads[place].calls + 1, loads[place].slots)
    assert loads[NAMES[1]].calls <= 22


def test_one_that_refuses_or_drains_or_is_stuck_gets_nothing_new() -> None:
    made, _, replicas = table()
    made.missed(replicas[0], "refused", refused=True)
    made.probe_answered(replicas[1], capacity(draining=True), {})
    assert {made.choose(b"%d" % key, "chat", "tiny") for key in range(50)} == {replicas[2]}
    made.probe_answered(replicas[2], capacity(running=1, stalled=11.0), {})
    assert made.choose(b"", "chat", "tiny") is None and made.is_lost(replicas[2])
    assert made.readiness("chat", "tiny").state == "failed"
    made.probe_answered(replicas[2], capacity(running=1, stalled=0.2), {})
    assert made.choose(b"", "chat", "tiny") is replicas[2]


def test_one_that_does_not_answer_is_left_out_within_a_second_and_given_up_later() -> None:
    made, clock, replicas = table(2)
    silent, other = replicas
    made.probe_sent(silent)
    clock.now += 0.6
    made.missed(silent, "late")
    assert not made.is_late(silent)
    clock.now += 0.1
    assert {made.choose(b"%d" % key, "chat", "tiny") for key in range(50)} == {other}
    made.missed(silent, "late")
    assert (silent.standing, made.is_lost(silent)) == ("silent", False)
    # where there is no other, a silent one is better than none
    assert made.choose(b"", "chat", "tiny", {other.address}) is None
    made.missed(other, "refused", refused=True)
    assert made.choose(b"", "chat", "tiny") is silent
    clock.now += 15
    made.missed(silent, "late")
    assert made.is_lost(silent) and silent.standing == "out" and made.choose(b"", "chat", "tiny") is None
    made.probe_answered(silent, capacity(), {})
    assert made.choose(b"", "chat", "tiny") is silent


def test_where_all_are_late_it_may_be_this_process_that_was() -> None:
    made, clock, replicas = table(2)
    for replica in replicas:
        made.probe_sent(replica)
    clock.now += 3
    assert made.choose(b"", "chat", "tiny") in replicas


def test_calls_of_others_count_and_ones_own_are_not_counted_twice() -> None:
    made, _, (one, two) = table(2)
    one.in_flight["chat"] = 4
    made.probe_answered(one, capacity(running=4, waiting=3), {"chat": 4})
    assert one.others == {"chat": 3}
    made.probe_answered(two, capacity(running=0), {})
    assert {made.choose(b"%d" % key, "chat", "tiny") for key in range(20)} == {two}


async def test_replicas_of_another_revision_are_another_model_to_a_cache() -> None:
    made, _, (one, two) = table(2, revision="v1")
    replicas = ReplicaSet(ProviderConfig(kind="replicas", addresses=NAMES[:1]), "")
    replicas.table = made
    model = ReplicaModel(ReplicaTarget(replicas))
    before = model.revision(ChatRequest(()))
    made.probe_answered(two, capacity(revision="v2"), {})
    between = model.revision(ChatRequest(()))
    made.probe_answered(one, capacity(revision="v2"), {})
    after = model.revision(ChatRequest(()))
    assert None not in (before, between, after) and len({before, between, after}) == 3


def test_embeddings_take_no_slots_of_chats_and_no_places_of_conversations() -> None:
    made, _, replicas = table(2)
    chats = capacity(slots=1, queue_size=0).models
    facts: dict[str, Any] = {"id": "vectors", "kind": "embedding", "status": "ready", "reason": "", "slots": 1}
    for replica in replicas:
        models = [*chats, ModelCapacity(**facts, running=9)]
        made.probe_answered(replica, Capacity(draining=False, models=models), {"embedding": 6})
        assert (replica.load("chat"), replica.load("embedding")) == (0, 3)
    first = made.choose(b"conversation", "chat", "tiny")
    assert first is not None
    first.in_flight["embedding"] = 50
    assert made.choose(b"conversation", "chat", "tiny") is first
    # it moves while its first replica is full, and stays where it has gone to
    first.in_flight["chat"] = 1
    second = made.choose(b"conversation", "chat", "tiny")
    assert second is not None and second is not first
    first.in_flight.clear()
    for number in range(MOST_PLACES):
        made.choose(b"text %d" % number, "embedding", "vectors")
    assert made.choose(b"conversation", "chat", "tiny") is second


def test_a_full_one_comes_last_and_one_that_was_tried_never() -> None:
    made, _, (one, two) = table(2, slots=1, queue_size=0)
    one.in_flight["chat"] = 1
    assert {made.choose(b"%d" % key, "chat", "tiny") for key in range(20)} == {two}
    two.in_flight["chat"] = 1
    assert made.choose(b"", "chat", "tiny") in (one, two)
    assert made.choose(b"", "chat", "tiny", {one.address}) is two
    assert made.choose(b"", "chat", "tiny", {one.address, two.address}) is None


def test_only_those_that_have_the_model_are_asked_and_local_is_any() -> None:
    made, _, (one, two) = table(2)
    made.probe_answered(two, capacity(status="loading"), {})
    assert {made.choose(b"%d" % key, "chat", "local") for key in range(20)} == {one}
    assert made.choose(b"", "chat", "other") is None and made.choose(b"", "embedding", "tiny") is None
    assert made.readiness("chat", "local").name == "tiny"


def test_the_sum_of_all_is_what_the_set_can_take() -> None:
    made, _, (one, two) = table(2)
    made.probe_answered(one, capacity(running=3, predicted_wait=2.0, tokens_per_second=10.0), {})
    made.probe_answered(two, capacity(running=1, predicted_wait=0.5, tokens_per_second=5.0, context=1024), {})
    told = made.capacity("chat", "tiny")
    assert told is not None
    assert (told.slots, told.running, told.context) == (8, 4, 1024)
    assert (told.predicted_wait, told.tokens_per_second) == (0.5, 15.0)


def test_addresses_come_and_go() -> None:
    made, _, (one, two, _) = table(3)
    new, gone = made.update([one.address, two.address, "http://other"])
    assert [replica.address for replica in new] == ["http://other"] and len(gone) == 1
    assert new[0].standing == "unknown" and one.standing == "ready"


def chat(tenant: str, *messages: tuple[str, str]) -> WireCall:
    said = [{"role": role, "content": text} for role, text in messages]
    return WireCall("/chat/completions", b"", {"messages": said}, False, Caller(tenant))


def test_a_conversation_keeps_its_key_and_others_have_another() -> None:
    first = chat("red", ("system", "Be kind."), ("user", "Hello"))
    later = chat("red", ("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi"), ("user", "More"))
    assert affinity(first) == affinity(later)
    assert affinity(first) != affinity(chat("blue", ("system", "Be kind."), ("user", "Hello")))
    assert affinity(first) != affinity(chat("red", ("system", "Be kind."), ("user", "Bye")))
    prompts = [WireCall("/completions", b"", {"prompt": text}, False) for text in ("one", "two")]
    assert affinity(prompts[0]) != affinity(prompts[1])
    odd = WireCall("/chat/completions", b"", {"messages": 3, "input": None}, False)
    assert affinity(odd) == affinity(odd)


async def test_a_name_is_all_of_its_addresses_and_keeps_them_while_it_cannot_be_resolved() -> None:
    answers: list[list[str] | OSError] = [["10.0.0.2", "10.0.0.1", "fd00::1"], OSError(2, "no such name")]

    async def lookup(host: str, port: int) -> list[str]:
        assert (host, port) == ("models", 8000)
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    discovery = Discovery(["http://fixed:1/", "dns://models:8000"], lookup)
    found = ["http://fixed:1", "http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://[fd00::1]:8000"]
    assert await discovery.find() == found
    assert await discovery.find() == found


async def test_a_list_that_others_keep_is_read_and_outlives_its_absence() -> None:
    answers = [b'["http://10.0.0.9:8000"]', b"no list", b'["file:///etc/passwd"]', b'["https://two:1"]']

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = answers.pop(0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        discovery = Discovery([f"list+http://127.0.0.1:{port}/replicas"])
        found = [await discovery.find() for _ in range(4)]
    assert found == [["http://10.0.0.9:8000"]] * 3 + [["https://two:1"]]
    assert await discovery.find() == ["https://two:1"]


class Probed:
    """A replica: answers each probe with what it is now, once it may. ``probes`` are the heads of those that came."""

    def __init__(self) -> None:
        self.now = capacity()
        self.probes = asyncio.Queue[bytes]()
        self.connections = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.probes.put_nowait(head)
                await self.may_answer.wait()
                body = self.now.model_dump_json().encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    @asynccontextmanager
    async def known(self, pace: Pace) -> AsyncIterator[ReplicaSet]:
        """The set of this one alone."""
        async with asyncio.timeout(60), await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            replicas = ReplicaSet(ProviderConfig(kind="replicas", addresses=[url]), "", pace=pace)
            try:
                yield replicas
            finally:
                await replicas.aclose()

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[ReplicaSet]:
        """It answered that its model loads, and is not probed again before a call asks."""
        self.now = capacity(status="loading")
        async with self.known(Pace(busy=3600.0, idle=3600.0)) as replicas:
            replicas.start()
            await self.probes.get()
            (replica,) = await _listed(replicas)
            while replica.standing == "unknown":  # noqa: ASYNC110 - probes are told nowhere
                await asyncio.sleep(0.01)
            yield replicas


async def _listed(replicas: ReplicaSet) -> list[Replica]:
    while not replicas.table.replicas:  # noqa: ASYNC110 - what is found is told nowhere
        await asyncio.sleep(0.01)
    return list(replicas.table.replicas.values())


async def test_replicas_that_no_call_needs_are_probed_seldom_and_by_the_next_call_at_once() -> None:
    probed = Probed()
    async with probed.known(Pace(busy=0.001, idle=3600.0, calm=0.0)) as replicas:
        # the first is probed at once, and so by each call; between two of them there is none
        for _ in range(3):
            assert await replicas.choose(b"key", "chat", "") is not None
            assert b"GET /v1/capacity " in await probed.probes.get()
            await asyncio.sleep(0.05)
            assert probed.probes.empty()
        assert probed.connections == 1, "they share a connection"


async def test_a_call_that_would_be_refused_looks_again_first() -> None:
    probed = Probed()
    async with probed.loading() as replicas:
        assert await replicas.choose(b"key", "chat", "") is None, "it still loads"
        assert probed.probes.qsize() == 1
        probed.now = capacity()
        assert await replicas.choose(b"key", "chat", "") is not None
        assert await replicas.choose(b"key", "chat", "") is not None
        assert probed.probes.qsize() == 2, "what is known to be ready is not looked at"
        # what a call has tried already is not looked at either
        assert await replicas.choose(b"key", "chat", "", tried=list(replicas.table.replicas)) is None
        assert probed.probes.qsize() == 2


async def test_calls_that_would_be_refused_at_the_same_time_share_one_look() -> None:
    probed = Probed()
    async with probed.loading() as replicas:
        probed.may_answer.clear()
        calls = [asyncio.create_task(replicas.choose(b"%d" % key, "chat", "")) for key in range(8)]
        await probed.probes.get()
        probed.now = capacity()
        probed.may_answer.set()
        assert None not in await asyncio.gather(*calls)
        assert probed.probes.empty()


async def test_a_look_that_its_call_has_left_is_not_the_next_calls() -> None:
    probed = Probed()
    async with probed.loading() as replicas:
        probed.may_answer.clear()
        left = asyncio.create_task(replicas.choose(b"key", "chat", ""))
        await probed.probes.get()
        left.cancel()
        await asyncio.wait({left})
        (replica,) = replicas.table.replicas.values()
        before = replica.answered_at
        probed.may_answer.set()
        while replica.answered_at == before:  # noqa: ASYNC110 - probes are told nowhere
            await asyncio.sleep(0.01)
        # the turns of the loop in which the look ends
        for _ in range(10):
            await asyncio.sleep(0)
        probed.now = capacity()
        assert await replicas.choose(b"key", "chat", "") is not None


async def test_an_address_that_is_none_is_left_out_and_the_others_are_asked() -> None:
    config = ProviderConfig(kind="replicas", addresses=["http://a:99999", "http://127.0.0.1:9"])
    replicas = ReplicaSet(config, "")
    replicas.start()
    bad, good = "http://a:99999", "http://127.0.0.1:9"
    found = replicas.table.replicas
    async with asyncio.timeout(60):
        while found.keys() != {bad, good} or found[good].standing != "out":  # noqa: ASYNC110 - probes are told nowhere
            await asyncio.sleep(0.01)
    assert found[bad].reason == "Its address is not valid"
    assert found[good].reason != "Its address is not valid"
    await replicas.aclose()
