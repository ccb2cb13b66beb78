"""The prefix cache's second floor: what it keeps, for whom, and that no answer depends on where a prefix came from."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from apps.core.settings import Settings
from apps.local.engine.batching.opening import Caches, open_step, own_library
from apps.local.engine.batching.prefix_cache import BLOCK, KEPT_SECONDS, PrefixStore
from apps.local.engine.batching.scheduler import BatchingEngine
from apps.local.engine.port import EngineOutput, NoKernel, Sampling
from apps.local.tokenizer import HubTokenizer
from apps.tests.support.clock import Clock
from apps.tests.support.tiny_checkpoint import TinyTokenizer, write_tiny_checkpoint

pytestmark = pytest.mark.local

TOKENS = list(range(3 * BLOCK + 5))


def values(start: int, stop: int) -> bytes:
    return f"{start} to {stop} ".encode() * 100


def kept(
    folder: Path, tokens: list[int], tenant: str = "a", most_bytes: int = 1 << 20, clock: Clock | None = None
) -> None:
    store = PrefixStore(folder, "model", most_bytes, clock or Clock(1_000_000.0, step=1.0))
    store.keep("a", tokens, values)
    store.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., PrefixStore]]:
    stores = []

    def make(identity: str = "model", most_bytes: int = 1 << 20) -> PrefixStore:
        stores.append(PrefixStore(tmp_path / "prefixes", identity, most_bytes, Clock(1_000_000.0, step=1.0)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def test_whole_blocks_are_found_again_after_a_restart(tmp_path: Path, opened: Callable[..., PrefixStore]) -> None:
    kept(tmp_path / "prefixes", TOKENS)
    found = opened().load("a", [*TOKENS, 9, 9], 0)
    assert found is not None
    assert (found.begin, found.end) == (0, 3 * BLOCK)
    assert [bytes(block) for block in found.blocks] == [values(at, at + BLOCK) for at in range(0, 3 * BLOCK, BLOCK)]


def test_what_is_in_memory_is_not_read(tmp_path: Path, opened: Callable[..., PrefixStore]) -> None:
    kept(tmp_path / "prefixes", TOKENS)
    store = opened()
    found = store.load("a", TOKENS, BLOCK + 3)
    assert found is not None and (found.begin, found.end) == (BLOCK, 3 * BLOCK)
    assert store.load("a", TOKENS, 3 * BLOCK + 1) is None


def test_the_last_token_of_a_prompt_is_never_found(tmp_path: Path, opened: Callable[..., PrefixStore]) -> None:
    kept(tmp_path / "prefixes", TOKENS)
    found = opened().load("a", TOKENS[: 2 * BLOCK], 0)
    assert found is not None and found.end == BLOCK


def test_another_tenant_model_or_beginning_finds_nothing(tmp_path: Path, opened: Callable[..., PrefixStore]) -> None:
    kept(tmp_path / "prefixes", TOKENS)
    assert opened().load("b", TOKENS, 0) is None
    assert opened("another model").load("a", TOKENS, 0) is None
    assert opened().load("a", [77, *TOKENS], 0) is None


def test_a_broken_file_ends_what_is_found_and_is_removed(tmp_path: Path, opened: Callable[..., PrefixStore]) -> None:
    kept(tmp_path / "prefixes", TOKENS[:BLOCK])
    (first,) = (tmp_path / "prefixes").iterdir()
    kept(tmp_path / "prefixes", TOKENS)
    for damage in (lambda content: content[:-1], lambda content: b"x" + content[1:], lambda _: b""):
        kept(tmp_path / "prefixes", TOKENS)
        first.write_bytes(damage(first.read_bytes()))
        assert opened().load("a", TOKENS, 0) is None
        assert not first.exists()


def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
    kept(tmp_path / "prefixes", TOKENS)
    assert (tmp_path / "prefixes").stat().st_mode & 0o077 == 0
    files = list((tmp_path / "prefixes").iterdir())
    assert len(files) == 3
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)


def test_the_folder_stays_within_its_bytes_and_the_oldest_go(
    tmp_path: Path, opened: Callable[..., PrefixStore]
) -> None:
    clock, size = Clock(1_000_000.0, step=1.0), len(values(0, BLOCK)) + 200
    most = 8 * size
    kept(tmp_path / "prefixes", TOKENS, clock=clock)
    for start in range(1000, 5000, 1000):
        kept(tmp_path / "prefixes", [start, *TOKENS], most_bytes=most, clock=clock)
        assert sum(file.stat().st_size for file in (tmp_path / "prefixes").iterdir()) <= most
    assert opened().load("a", TOKENS, 0) is None
    assert opened().load("a", [4000, *TOKENS], 0) is not None


def test_what_was_not_used_for_long_goes(tmp_path: Path, opened: Callable[..., PrefixStore]) -> None:
    clock = Clock(1_000_000.0, step=1.0)
    kept(tmp_path / "prefixes", TOKENS, clock=clock)
    for file in (tmp_path / "prefixes").iterdir():
        os.utime(file, (clock.now,) * 2)
    clock.now += KEPT_SECONDS + 10
    kept(tmp_path / "prefixes", [5, *TOKENS], clock=clock)
    assert len(list((tmp_path / "prefixes").iterdir())) == 3
    assert opened().load("a", TOKENS, 0) is None


def test_a_folder_that_cannot_be_written_keeps_nothing_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    kept(tmp_path / "file", TOKENS)
    assert caplog.text.count("Prefixes cannot be kept") == 1


# --- no answer depends on it


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


def tiny_engine(folder: Path, precision: str, store: PrefixStore | None) -> BatchingEngine:
    try:
        library = own_library(Settings().model_cache_dir)
    except NoKernel as error:
        pytest.skip(f"no kernels here: {error}")
    step = open_step(folder, precision, folder.parent, library, Caches(256), 2)
    return BatchingEngine(step, cast(HubTokenizer, TinyTokenizer()), 256, 2, 4, {}, None, store)


async def said(engine: BatchingEngine, prompt: list[int], tenant: str = "a", keep: bool = True) -> list[EngineOutput]:
    sampling = Sampling(0, 1, 24, top_logprobs=2, tenant=tenant, keep=keep)
    return [output async for output in engine.generate(prompt, sampling)]


def logprobs(outputs: list[EngineOutput]) -> list[float | None]:
    return [value.logprob for output in outputs for one in output.logprobs for value in (one, *one.top)]


@pytest.mark.parametrize("precision", ["int4", "fp32"])
async def test_an_answer_has_the_same_bits_from_disk_from_memory_and_computed(
    tiny: Path, tmp_path: Path, precision: str
) -> None:
    first = [at * 7 % 96 for at in range(70)]
    engine = tiny_engine(tiny, precision, PrefixStore(tmp_path, precision, 1 << 24))
    turn = await said(engine, first)
    text = "".join(output.text for output in turn)
    follow_up = [*first, *TinyTokenizer().encode(text), 3, 4, 5]
    from_memory = await said(engine, follow_up)
    engine.close()
    restarted = tiny_engine(tiny, precision, PrefixStore(tmp_path, precision, 1 << 24))
    from_disk = await said(restarted, follow_up)
    of_another = await said(restarted, follow_up, tenant="b")
    restarted.close()
    alone = tiny_engine(tiny, precision, None)
    computed = await said(alone, follow_up)
    alone.close()
    assert [outputs[-1].cached_tokens for outputs in (from_memory, from_disk, of_another, computed)] == [93, 96, 0, 0]
    assert logprobs(from_memory) == logprobs(from_disk) == logprobs(of_another) == logprobs(computed)


async def test_nothing_is_kept_of_a_call_that_forbids_it(tiny: Path, tmp_path: Path) -> None:
    engine = tiny_engine(tiny, "int4", PrefixStore(tmp_path / "prefixes", "x", 1 << 24))
    await said(engine, TOKENS[:90], keep=False)
    engine.close()
    assert not (tmp_path / "prefixes").exists()
