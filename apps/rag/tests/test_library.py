"""Collections and documents: what goes in can be found, listed, replaced and taken away."""

import asyncio
import hashlib
import io
from pathlib import Path

import pytest

from apps.core.errors import Conflict, InvalidType, InvalidValue, NotFound, Overloaded, PayloadTooLarge
from apps.rag.library import Library
from apps.rag.records import Limits, Upload
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS, finished, ingested, names, texts

pytestmark = pytest.mark.local


async def test_a_document_is_found_with_its_name_its_headings_and_its_span(library: Library) -> None:
    source = "# Animals\n\nCats purr when they are content.\n\n## Birds\n\nOwls hunt at night.\n"
    job = await ingested(library, {"zoo.md": source}, metadata={"year": 2024})
    assert (job.status, job.percent, job.passages) == ("done", 100, 2)
    [first, *_] = await library.search("ann", "docs", "when do owls hunt")
    assert (first.name, first.headings, first.page) == ("zoo.md", ("Animals", "Birds"), None)
    assert first.document == hashlib.sha256(source.encode()).hexdigest()
    assert first.metadata == {"year": 2024}
    assert source[first.start :].startswith("## Birds") or "Owls" in first.text
    document = await library.document("ann", "docs", first.document)
    assert (document.kind, document.passages, document.bytes) == ("markdown", 2, len(source))


async def test_the_same_bytes_twice_are_one_document_under_both_names(library: Library) -> None:
    await ingested(library, {"a.txt": "one text, twice"})
    await ingested(library, {"b.txt": "one text, twice"}, metadata={"copy": True})
    await ingested(library, {"b.txt": "one text, twice"}, metadata={"copy": True})
    [document] = await library.documents("ann", "docs")
    assert (document.name, document.names, document.metadata) == ("b.txt", ("a.txt", "b.txt"), {"copy": True})
    assert await texts(library, "text") == ["one text, twice"]
    # a new version under one of the names leaves the other's bytes alone
    await ingested(library, {"b.txt": "another text"})
    assert await names(library) == ["a.txt", "b.txt"]
    assert sorted(await texts(library, "text")) == ["another text", "one text, twice"]


async def test_a_new_version_replaces_the_old_one_and_an_old_one_may_come_back(library: Library) -> None:
    for content in ("version one", "version two", "version one"):
        await ingested(library, {"note.txt": content, "other.txt": "always here"})
        assert await names(library) == ["note.txt", "other.txt"]
        assert sorted(await texts(library, "version here")) == ["always here", content]


@pytest.mark.long
async def test_a_reader_never_sees_neither_version_or_both(library: Library) -> None:
    await ingested(library, {"note.txt": "counting word zero"})
    stop, seen = asyncio.Event(), list[list[str]]()

    async def read() -> None:
        while not stop.is_set():
            seen.append([text for text in await texts(library, "counting word") if "counting" in text])

    readers = [asyncio.create_task(read()) for _ in range(2)]
    for version in range(12):
        await ingested(library, {"note.txt": f"counting word {version}", f"{version}.txt": f"filler {version}"})
    stop.set()
    await asyncio.gather(*readers)
    assert len(seen) > 20
    assert {len(found) for found in seen} == {1}
    assert len({found[0] for found in seen}) > 3


async def test_documents_and_collections_are_deleted_and_pages_are_walked(library: Library) -> None:
    await ingested(library, {f"{n}.txt": f"text number {n}" for n in range(5)})
    walked, after = list[str](), ""
    while page := await library.documents("ann", "docs", limit=2, after=after):
        walked, after = walked + [document.id for document in page], page[-1].id
    assert len(walked) == 5 and walked == sorted(walked)
    await library.delete_document("ann", "docs", walked[0])
    with pytest.raises(NotFound):
        await library.delete_document("ann", "docs", walked[0])
    with pytest.raises(NotFound):
        await library.document("ann", "docs", walked[0])
    assert (await library.collection("ann", "docs")).documents == 4
    await library.delete_collection("ann", "docs")
    assert await library.collections("ann") == []
    for call in (library.collection("ann", "docs"), library.search("ann", "docs", "text")):
        with pytest.raises(NotFound):
            await call
    await ingested(library, {"new.txt": "a fresh start"})
    assert await texts(library, "text") == ["a fresh start"]


async def test_deleting_a_collection_ends_what_waits_for_it(tmp_path: Path) -> None:
    library = Library(tmp_path, HashingEmbedder(), limits=LIMITS)
    job = await library.submit("ann", "docs", [Upload("a.txt", b"never ingested")])
    await library.delete_collection("ann", "docs")
    job = await library.job("ann", job.id)
    assert job.status == "failed" and job.files[0].error is not None
    assert job.files[0].error["message"] == "The collection was deleted"
    assert not list((tmp_path / "spool").iterdir())
    await library.aclose()


async def test_two_tenants_collections_of_one_name_are_strangers(library: Library) -> None:
    job = await ingested(library, {"a.txt": "a secret of ann"}, tenant="ann")
    await ingested(library, {"b.txt": "a secret of bob"}, tenant="bob")
    assert await texts(library, "secret", tenant="ann") == ["a secret of ann"]
    assert await texts(library, "secret", tenant="bob") == ["a secret of bob"]
    mine = job.files[0].document
    for call in (
        library.job("bob", job.id),
        library.document("bob", "docs", mine),
        library.passages("bob", "docs", mine),
        library.delete_document("bob", "docs", mine),
        library.search("../" + "ann", "docs", "secret"),
        library.collection("Ann", "docs"),
    ):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(NotFound):
        await anext(library.watch("bob", job.id))
    assert await library.collections("nobody") == []
    assert [c.documents for c in await library.collections("bob")] == [1]


async def test_another_embedding_model_is_refused_for_search_and_for_documents(tmp_path: Path) -> None:
    first = Library(tmp_path, HashingEmbedder("one"), limits=LIMITS)
    await first.start()
    await ingested(first, {"a.txt": "some text"})
    await first.aclose()
    for embedder in (HashingEmbedder("two"), HashingEmbedder("one", dimensions=32)):
        other = Library(tmp_path, embedder, limits=LIMITS)
        with pytest.raises(Conflict, match=r"embedding model one \(64"):
            await other.submit("ann", "docs", [Upload("b.txt", b"more")])
        with pytest.raises(Conflict):
            await other.search("ann", "docs", "text")
        # words alone need no model
        assert await texts(other, "text", mode="text") == ["some text"]
        await other.aclose()


async def test_a_restart_ingests_what_was_taken_in_before_it(tmp_path: Path) -> None:
    before = Library(tmp_path, HashingEmbedder(), limits=LIMITS)
    jobs = [await before.submit("ann", "docs", [Upload(f"{n}.txt", f"text {n}".encode())]) for n in range(3)]
    assert {job.status for job in jobs} == {"queued"}
    await before.aclose()
    after = Library(tmp_path, HashingEmbedder(), limits=LIMITS)
    await after.start()
    assert [(await finished(after, "ann", job)).status for job in jobs] == ["done"] * 3
    assert await names(after) == ["0.txt", "1.txt", "2.txt"]
    await after.aclose()
    assert not list((tmp_path / "spool").iterdir())


@pytest.mark.long
async def test_closing_in_the_middle_of_a_file_gives_it_back_whole(tmp_path: Path) -> None:
    first = Library(tmp_path, HashingEmbedder(seconds=0.2), limits=LIMITS)
    await first.start()
    long = " ".join(f"word{n}" for n in range(20_000)).encode()
    job = await first.submit("ann", "docs", [Upload("long.txt", long), Upload("short.txt", b"a short text")])
    await asyncio.sleep(1)
    await first.aclose()
    second = Library(tmp_path, HashingEmbedder(), limits=LIMITS)
    assert (await second.job("ann", job.id)).files[0].status == "queued"
    await second.start()
    job = await finished(second, "ann", job)
    assert (job.status, await names(second)) == ("done", ["long.txt", "short.txt"])
    assert (await second.collection("ann", "docs")).passages == job.passages
    await second.aclose()


@pytest.mark.long
async def test_progress_never_goes_back_and_ends_at_a_hundred(tmp_path: Path) -> None:
    library = Library(tmp_path, HashingEmbedder(seconds=0.3), limits=LIMITS)
    await library.start()
    long = " ".join(f"word{n}" for n in range(30_000))
    job = await library.submit("ann", "docs", [Upload("long.txt", long.encode()), Upload("bad.pdf", b"no pdf")])
    states = [state async for state in library.watch("ann", job.id)]
    await library.aclose()
    assert [state.percent for state in states] == sorted(state.percent for state in states)
    assert [state.passages for state in states] == sorted(state.passages for state in states)
    assert any(5 < state.percent < 95 for state in states)
    last = states[-1]
    assert (last.percent, last.status, [file.status for file in last.files]) == (100, "failed", ["done", "failed"])
    assert last.files[0].embedded == last.files[0].passages > 300


async def test_a_file_is_read_from_where_it_stands(library: Library) -> None:
    upload = Upload("big.txt", io.BytesIO(b"streamed from a file " * 10))
    job = await finished(library, "ann", await library.submit("ann", "docs", [upload]))
    assert job.status == "done"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("../etc/passwd", b"x", InvalidValue),
        ("a\\b.txt", b"x", InvalidValue),
        ("C:boot.ini", b"x", InvalidValue),
        ("..", b"x", InvalidValue),
        ("a\nb.txt", b"x", InvalidValue),
        ("a\u202etxt.exe", b"x", InvalidValue),
        ("", b"x", InvalidValue),
        ("x" * 256, b"x", InvalidValue),
        ("empty.txt", b"", InvalidValue),
        ("huge.txt", b"x" * (4 * 2**20 + 1), PayloadTooLarge),
    ],
)
async def test_a_bad_name_or_size_is_refused_at_once_and_leaves_nothing(
    library: Library, tmp_path: Path, name: str, content: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await library.submit("ann", "docs", [Upload("fine.txt", b"fine"), Upload(name, content)])
    assert await library.collections("ann") == []
    assert not (tmp_path / "spool").exists() or not list((tmp_path / "spool").iterdir())


@pytest.mark.parametrize("name", ["", "A", "-a", "a/b", "a.b", "x" * 64, "ä", "a\n"])
async def test_a_collections_name_is_a_plain_word(library: Library, name: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        await library.submit("ann", name, [Upload("a.txt", b"x")])
    assert caught.value.field == "collection"


@pytest.mark.parametrize(
    "metadata", [{"page": 1}, {"a b": 1}, {"a": None}, {"a": [1]}, {"a": float("nan")}, {"a": 2**60}, {"a": "\ud800"}]
)
async def test_metadata_that_no_filter_could_read_is_refused(library: Library, metadata: dict[str, str]) -> None:
    with pytest.raises((InvalidValue, InvalidType)):
        await library.submit("ann", "docs", [Upload("a.txt", b"x", metadata)])


async def test_a_full_queue_pushes_back_and_one_tenant_cannot_fill_it(tmp_path: Path) -> None:
    library = Library(tmp_path, HashingEmbedder(), limits=Limits(queued_files=6))
    await library.submit("ann", "docs", [Upload(f"{n}.txt", b"x") for n in range(3)])
    with pytest.raises(Overloaded) as caught:
        await library.submit("ann", "docs", [Upload("more.txt", b"x")])
    assert caught.value.retry_after
    await library.submit("bob", "docs", [Upload(f"{n}.txt", b"x") for n in range(3)])
    with pytest.raises(Overloaded):
        await library.submit("eve", "docs", [Upload("more.txt", b"x")])
    await library.aclose()
