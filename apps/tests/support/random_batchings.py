"""Random batchings of a tiny model: in any company an answer has, to the bit, the log probabilities it has alone.

A batching is drawn from a seed and its number: which prompts, when each joins and who leaves midway, how much of a
prompt goes into a step, slots, blocks, threads, what keys and values are kept in, what drafts, and where the beginnings
of prompts come from. Calls join and leave at steps, not at times, so that a batching can be run again. What an answer
should be is computed without scheduler, shared caches and drafts: from its prompt alone, a row at a time.
"""

import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from apps.core.deltas import TokenLogprob
from apps.core.errors import AppError
from apps.local.engine.batching.answer import Answer, Mailbox
from apps.local.engine.batching.drafting import DraftModel, StepTimes
from apps.local.engine.batching.opening import Library
from apps.local.engine.batching.packed_cache import Packer, load_weights
from apps.local.engine.batching.prefix_cache import PrefixStore
from apps.local.engine.batching.scheduler import Scheduler
from apps.local.engine.batching.shape import read_shape
from apps.local.engine.batching.speculation import Speculation
from apps.local.engine.batching.step import LARGEST, Chunking, Step
from apps.local.engine.batching.torch_step import TorchStep
from apps.local.engine.kernel.native_step import NativeStep
from apps.local.engine.port import EngineOutput, Sampling
from apps.local.tokenizer import HubTokenizer
from apps.tests.support.tiny_checkpoint import SIZES, TinyTokenizer, write_tiny_checkpoint

CONTEXT = int(SIZES["max_position_embeddings"])
WORDS = int(SIZES["vocab_size"])
BLOCK = 64
# one sequence alone must fit; with no more than that, answers interrupt one another
TIGHT = (CONTEXT // BLOCK, CONTEXT // BLOCK + 1, CONTEXT // BLOCK + 2)
LONGEST_BEGINNING, LONGEST_REST, MOST_TOKENS = 150, 60, 50
PATIENCE = 200.0
TOKENIZER = cast(HubTokenizer, TinyTokenizer())
# a token's bytes, its log probability, and the same of the likeliest ones in its place
Entry = tuple[bytes, float | None, tuple[tuple[bytes, float | None], ...]]


@dataclass(frozen=True, slots=True)
class Call:
    """Joins before step ``joins`` at the latest, and leaves during step ``leaves`` where it is not through by then."""

    prompt: tuple[int, ...]
    sampling: Sampling
    joins: int
    leaves: int | None


@dataclass(frozen=True, slots=True)
class Batching:
    """``earlier`` calls are through when ``calls`` begin; with ``prefix`` disk, their engine has been closed, too."""

    name: str
    precision: str
    cache_type: str
    threads: int
    slots: int
    blocks: int | None
    drafts: str
    prefix: str
    earlier: tuple[Call, ...]
    calls: tuple[Call, ...]
    chunks: int

    def __str__(self) -> str:
        kept = f"{self.cache_type} keys and values in {self.blocks or 'many'} blocks"
        return (
            f"{self.name}: {self.precision}, {kept}, threads {self.threads}, slots {self.slots}, "
            f"drafts: {self.drafts}, prefix: {self.prefix}, {len(self.earlier)} calls and then {len(self.calls)}"
        )


def draw(seed: int, number: int) -> Batching:
    """The batching of that number."""
    drawn = random.Random(f"{seed} {number}")
    beginnings = [_text(drawn, drawn.randrange(1, LONGEST_BEGINNING)) for _ in range(drawn.randrange(1, 4))]
    prefix = drawn.choice(["none", "memory", "disk"])
    calls = [_call(drawn, beginnings, "" if prefix != "none" else str(at)) for at in range(drawn.randrange(1, 8))]
    earlier = [_call(drawn, beginnings, "") for _ in range(drawn.randrange(1, 3))]
    return Batching(
        f"seed {seed}, number {number}",
        precision=drawn.choice(["int4", "int4", "int4", "int8", "bf16", "fp32"]),
        cache_type=drawn.choice(["float16", "int8", "int8", "float32"]),
        threads=drawn.choice([1, 1, 1, 1, 2, 3]),
        slots=drawn.randrange(1, 6),
        blocks=drawn.choice([None, None, *TIGHT]),
        drafts=drawn.choice(["off", "lookup", "a smaller model", "the model itself"]),
        prefix=prefix,
        earlier=() if prefix == "none" else tuple(earlier),
        calls=tuple(sorted(calls, key=lambda call: call.joins)),
        chunks=drawn.randrange(1 << 30),
    )


def _text(drawn: random.Random, length: int) -> list[int]:
    """Half of them say the same again and again, so that there is something to look up."""
    if drawn.random() < 0.5:
        return [drawn.randrange(WORDS) for _ in range(length)]
    run = [drawn.randrange(WORDS) for _ in range(drawn.randrange(2, 30))]
    return (run * length)[:length]


def _call(drawn: random.Random, beginnings: Sequence[list[int]], tenant: str) -> Call:
    rest = _text(drawn, drawn.choice([0, drawn.randrange(LONGEST_REST)]))
    joins = drawn.choice([0, 0, drawn.randrange(1, 60)])
    sampling = Sampling(
        temperature=drawn.choice([0.0, 0.0, 0.0, 0.8]),
        top_p=1.0,
        max_tokens=drawn.randrange(1, MOST_TOKENS),
        seed=drawn.randrange(1 << 30),
        top_logprobs=2,
        prompt_logprobs=2 if drawn.random() < 0.1 else None,
        tenant=tenant,
    )
    leaves = joins + drawn.randrange(1, 30) if drawn.random() < 0.25 else None
    return Call(tuple([*drawn.choice(beginnings), *rest][: CONTEXT - MOST_TOKENS]), sampling, joins, leaves)


class Difference(AssertionError):
    """An answer is not what it is alone; the message names its batching, which can be run again."""


class Outbox:
    """What an answer said. Stands in a Mailbox's place where there is no event loop; its reader is never slow."""

    full = False
    room = 1 << 20

    def __init__(self) -> None:
        self.outputs: list[EngineOutput] = []
        self.error: AppError | None = None
        self.left = False
        self.ended = threading.Event()

    def put(self, output: EngineOutput | AppError) -> None:
        if isinstance(output, AppError):
            self.error = output
        else:
            self.outputs.append(output)
        if self.error is not None or self.outputs[-1].finish_reason is not None:
            self.ended.set()

    def entries(self) -> list[Entry]:
        return [_entry(one) for each in self.outputs for one in (*each.prompt_logprobs, *each.logprobs)]

    @property
    def reason(self) -> str | None:
        return self.outputs[-1].finish_reason if self.outputs else None


def _entry(one: TokenLogprob) -> Entry:
    return one.raw, one.logprob, tuple((other.raw, other.logprob) for other in one.top)


def _answer(call: Call, keep: bool = False) -> tuple[Answer, Outbox]:
    outbox = Outbox()
    return Answer(call.prompt, replace(call.sampling, keep=keep), TOKENIZER, cast(Mailbox, outbox)), outbox


class Stepped:
    """A Step that calls ``before`` at the beginning of each ``run``, on the scheduler's thread."""

    def __init__(self, step: Step) -> None:
        self.before: Callable[[], None] = lambda: None
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def run(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any], wanted: Sequence[int]) -> Any:
        self.before()
        return self._step.run(tokens, positions, caches, wanted)


class DrawnChunking(Chunking):
    """As much of the prompts as is drawn, and not as the clock says."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._drawn = random.Random(seed)

    def rows(self, answers_running: bool) -> int:
        return self._drawn.choice([self._drawn.randrange(1, 20), self._drawn.randrange(1, 70), LARGEST])


class FreeRows(StepTimes):
    """Steps of any number of rows take the same time: everything that is proposed is checked."""

    def seconds(self, rows: int) -> float:
        return 1.0


class Company:
    """Calls in one scheduler: they join and leave as its steps go by."""

    def __init__(self, scheduler: Scheduler, step: Stepped, store: PrefixStore | None) -> None:
        self._scheduler = scheduler
        self._store = store
        self._steps = 0
        self._waiting: deque[tuple[Call, Answer, Outbox]] = deque()
        self._added: list[tuple[Call, Answer, Outbox]] = []
        self.from_disk: set[int] = set()
        step.before = self._before_step

    def answers(self, calls: Sequence[Call], keep: bool) -> list[Outbox]:
        """What each call was told until it was through, or left. Raises TimeoutError."""
        asked = [(call, *_answer(call, keep)) for call in calls]
        self._steps, self._added, self._waiting = 0, [], deque(asked)
        while self._waiting:
            # the thread adds none where nothing runs
            self._add_next()
            for _, _, outbox in self._added:
                if not outbox.ended.wait(PATIENCE):
                    raise TimeoutError
        return [outbox for _, _, outbox in asked]

    def _before_step(self) -> None:
        while self._waiting and self._waiting[0][0].joins <= self._steps:
            self._add_next()
        for call, answer, outbox in self._added:
            if call.leaves is not None and call.leaves <= self._steps and not outbox.ended.is_set():
                outbox.left = True
                self._scheduler.cancel(answer)
                outbox.ended.set()
        self._steps += 1

    def _add_next(self) -> None:
        one = self._waiting.popleft()
        answer = one[1]
        if self._store is not None:
            known = self._scheduler.known(answer.tokens, answer.tenant)
            answer.stored = self._store.load(answer.tenant, answer.tokens, known)
            if answer.stored is not None:
                self.from_disk.add(id(one[2]))
        self._added.append(one)
        self._scheduler.add(answer)


class Bench:
    """Runs batchings on one library of kernels, and writes into ``folder``; ``totals`` counts what they came to."""

    def __init__(self, library: Library | None, folder: Path) -> None:
        self.totals: Counter[str] = Counter()
        self._library = library
        self._name = "torch" if library is None else library.name
        self._folder = folder
        self._model = write_tiny_checkpoint(folder / "model")
        self._small = write_tiny_checkpoint(folder / "small", 5, num_hidden_layers=1)

    def check(self, batching: Batching) -> None:
        """Raises Difference."""
        with TemporaryDirectory(dir=self._folder) as kept:
            if batching.prefix == "disk":
                with self._serving(batching, Path(kept)) as company:
                    company.answers(batching.earlier, keep=True)
            with self._serving(batching, Path(kept)) as company:
                if batching.prefix == "memory":
                    company.answers(batching.earlier, keep=False)
                # nothing of it is written: what is found there would depend on how fast that is
                found = company.answers(batching.calls, keep=False)
        for at, (call, outbox) in enumerate(zip(batching.calls, found, strict=True)):
            self._compare(batching, at, outbox, self._alone(batching, call))
            if outbox.outputs:
                floor = "disk" if id(outbox) in company.from_disk else "memory"
                self.totals[f"tokens from {floor}"] += outbox.outputs[-1].cached_tokens
        self.totals["batchings"] += 1

    def _compare(self, batching: Batching, at: int, found: Outbox, expected: Outbox) -> None:
        entries, whole = found.entries(), expected.entries()
        if found.left:
            # its last step may have been under way
            whole = whole[: len(entries)]
        where = f"{self._name}, {batching}, call {at}"
        if found.error is not None and not found.left:
            raise Difference(f"{where}: {found.error!r}")
        for token, (one, other) in enumerate(zip(entries, whole, strict=False)):
            if self._tied(one, other):
                # both are right, and the texts part here
                break
            if not self._same(one, other):
                raise Difference(f"{where}: token {token} is {one}, alone {other}")
        else:
            if len(entries) != len(whole) or (not found.left and found.reason != expected.reason):
                raise Difference(
                    f"{where}: {len(entries)} tokens and {found.reason}, alone {len(whole)}, {expected.reason}"
                )
        self.totals["left"] += found.left
        self.totals["answers"] += 1
        self.totals["tokens"] += len(entries)
        self.totals["greedy answers"] += batching.calls[at].sampling.temperature == 0

    @contextmanager
    def _serving(self, batching: Batching, kept: Path) -> Iterator[Company]:
        store = PrefixStore(kept, "tiny", 1 << 26) if batching.prefix == "disk" else None
        drafting = self._drafting(batching)
        step = Stepped(self._step(self._model, batching))
        chunking, caches = DrawnChunking(batching.chunks), batching.slots + 2
        scheduler = Scheduler(cast(Step, step), batching.slots, caches, drafting, store, chunking)
        try:
            yield Company(scheduler, step, store)
        finally:
            scheduler.close()
            if store is not None:
                store.close()
        if scheduler.failure is not None:
            raise Difference(f"{self._name}, {batching}: {scheduler.failure}")
        self.totals["steps"] += scheduler.steps
        self.totals["interrupted"] += scheduler.interrupted
        if drafting is not None:
            self.totals["drafted"] += drafting.drafted
            self.totals["accepted"] += drafting.accepted

    def _same(self, one: Entry, other: Entry) -> bool:
        return one == other

    def _tied(self, one: Entry, other: Entry) -> bool:
        """Whether two different tokens were as likely as one another."""
        return False

    def _step(self, folder: Path, batching: Batching) -> Step:
        assert self._library is not None
        shape, functions = read_shape(folder), self._library.functions
        weights = load_weights(folder, shape, batching.precision, self._folder / "cache", Packer(functions, 1))
        tokens = None if batching.blocks is None else batching.blocks * BLOCK
        rows = LARGEST + batching.slots
        return NativeStep(functions, "", shape, weights, CONTEXT, batching.threads, rows, tokens, batching.cache_type)

    def _drafting(self, batching: Batching) -> Speculation | None:
        if batching.drafts == "off":
            return None
        model = None
        if batching.drafts != "lookup":
            folder = self._model if batching.drafts == "the model itself" else self._small
            step = self._step(folder, replace(batching, threads=1))
            # on a clock that stands still, drafting is free
            model = DraftModel(step, CONTEXT, WORDS, batching.slots + 2, 0.1, clock=lambda: 0.0)
        made = Speculation(model)
        made.times = FreeRows()
        return made

    def _alone(self, batching: Batching, call: Call) -> Outbox:
        """What the call is told where there is no other."""
        step = self._step(self._model, replace(batching, threads=1, blocks=None))
        answer, outbox = _answer(call)
        cache = step.new_cache()
        try:
            for position in count():
                logits = step.run(answer.tokens[position : position + 1], [position], [cache], [0])
                if answer.wants_prompt_logits and position < len(call.prompt):
                    answer.see_prompt(position, logits)
                if position + 1 == len(answer.tokens):
                    answer.take(logits[0])
                    if outbox.ended.is_set():
                        break
        finally:
            step.close()
        return outbox


class TorchBench(Bench):
    """The same on torch's kernels, whose sums differ with the rows beside: log probabilities are near, not equal."""

    NEAR = 1e-4

    def __init__(self, folder: Path) -> None:
        super().__init__(None, folder)

    def _same(self, one: Entry, other: Entry) -> bool:
        return one[0] == other[0] and self._near(one, other)

    def _tied(self, one: Entry, other: Entry) -> bool:
        return one[0] != other[0] and self._near(one, other)

    def _near(self, one: Entry, other: Entry) -> bool:
        values = [[each[1], *(logprob for _, logprob in each[2])] for each in (one, other)]
        return all(a == b or abs((a or 0.0) - (b or 0.0)) < self.NEAR for a, b in zip(*values, strict=True))

    def _step(self, folder: Path, batching: Batching) -> Step:
        rows = LARGEST + batching.slots
        return TorchStep(folder, read_shape(folder), "fp32", CONTEXT, batching.threads, rows)

    def _drafting(self, batching: Batching) -> None:
        """None, as in the engine: answers would depend on it."""
