"""`genai docs`: collections of documents on a running service, of the same tenant as its HTTP calls."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from apps.cli.documents import find_files
from apps.cli.documents import main as on_disk
from apps.cli.remote import (
    FAILED,
    URL,
    CommandFailure,
    Json,
    Key,
    Service,
    Url,
    print_json,
    print_table,
    print_text,
    printable,
)
from apps.cli.serve import run_module
from apps.core.callers import ANONYMOUS, SHARED
from apps.rag.relevance import REFERENCE

SKIPPED = 3
BATCH_BYTES, BATCH_FILES = 8 << 20, 50
# often at first, for a file that takes a moment; later seldom, for a folder that takes an hour
POLL_SECONDS, SLOWER, LONGEST_POLL = 0.5, 1.5, 5.0
ENDED = ("done", "failed", "cancelled")

app = typer.Typer(no_args_is_help=True, help="Take documents in, search them, ask them.")
Collection = Annotated[str, typer.Option("--collection", "-c", help="The collection's name.")]
Shared = Annotated[bool, typer.Option("--shared", help="A collection that all tenants may read.")]
TopK = Annotated[int, typer.Option(min=1, max=100, help="The most passages.")]
COLLECTION = "documents"


def _base(shared: bool) -> str:
    return "/rag/shared" if shared else "/rag/collections"


@app.command("add")
def add(
    paths: Annotated[
        list[Path], typer.Argument(exists=True, readable=True, help="Files, and folders with all in them.")
    ],
    collection: Collection = COLLECTION,
    shared: Shared = False,
    url: Url = URL,
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Take files in and wait until they can be found. Exit status 3 where some were skipped.

    Examples: genai docs add handbook.pdf · genai docs add notes/ -c work
    """
    service, found = Service(url, key, patient=True), find_files(paths)
    jobs: list[dict[str, Any]] = []
    for batch in _batches(found.taken):
        files = [("files", (label, path.read_bytes())) for path, label in batch]
        accepted = service.upload(f"{_base(shared)}/{collection}/documents", files)
        jobs.append(wait_for_job(service, accepted["job"], quiet=as_json))
    skipped = [{"path": str(path), "reason": reason} for path, reason in found.skipped]
    failed = [file for job in jobs for file in job["files"] if file["status"] == "failed"]
    if as_json:
        print_json({"jobs": jobs, "skipped": skipped})
    else:
        for job in jobs:
            for file in job["files"]:
                typer.echo(f"{file['name']}: {file['status']}" + (f" ({_why(file)})" if file.get("error") else ""))
        for one in skipped:
            typer.echo(f"{one['path']}: skipped ({one['reason']})", err=True)
    if failed:
        raise typer.Exit(FAILED)
    if skipped:
        raise typer.Exit(SKIPPED)


@app.command("sync")
def sync(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What the collection follows.")],
    collection: Collection = COLLECTION,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C, and follow every change.")] = False,
    shared: Shared = False,
    tenant: Annotated[
        str, typer.Option(help="Whose collection: a key's tenant; without keys, the one of all calls.")
    ] = ANONYMOUS.tenant,
) -> None:
    """Keep a collection in step with a folder. Exit status 3 where something was skipped.

    It works on DATA_DIR itself, as the settings name it, whether or not a service runs there.

    Examples: genai docs sync notes/ -c work · genai docs sync notes/ -c work --watch
    """
    words = ["sync", str(folder), "--collection", collection, "--tenant", SHARED if shared else tenant]
    raise typer.Exit(on_disk([*words, *(["--watch"] if watch else [])]))


@app.command("ingest")
def ingest(
    sources: Annotated[
        list[str], typer.Argument(metavar="PATH_OR_URL...", help="Files, folders; with --ray URLs too.")
    ],
    collection: Collection = COLLECTION,
    by_ray: Annotated[bool, typer.Option("--ray", help="By tasks of Ray, on all of its machines.")] = False,
    shared: Shared = False,
    tenant: Annotated[
        str, typer.Option(help="Whose collection: a key's tenant; without keys, the one of all calls.")
    ] = ANONYMOUS.tenant,
) -> None:
    """Take files in without a running service; one that was broken off goes on when it is called again.

    It works on DATA_DIR or RAG_URI, as the settings name them. With --ray (requirements-fleet.txt, in a checkout) files
    are parsed and embedded by all cores of this machine, or of the cluster that RAY_ADDRESS names.

    Examples: genai docs ingest notes/ -c work · genai docs ingest s3://bucket/papers -c papers --ray
    """
    words = [*sources, "--collection", collection, "--tenant", SHARED if shared else tenant]
    if not by_ray:
        raise typer.Exit(on_disk(["ingest", *words]))
    if importlib.util.find_spec("ray") is None:
        raise CommandFailure("Ray is not installed here: pip install -r requirements-fleet.txt")
    run_module("infra.ray.ingest", words)


@app.command("list")
def list_documents(
    collection: Annotated[str | None, typer.Option("--collection", "-c", help="List this one's documents.")] = None,
    shared: Shared = False,
    url: Url = URL,
    key: Key = "",
    as_json: Json = False,
) -> None:
    """List the collections, or the documents of one.

    Examples: genai docs list · genai docs list -c work
    """
    path = _base(shared) if collection is None else f"{_base(shared)}/{collection}/documents"
    of = "collections" if collection is None else "documents"
    found = Service(url, key, patient=True).get_all(path, of, ("next", "after"))
    if as_json:
        print_json(found)
        return
    rows = found[of]
    columns = ("name", "documents", "passages", "embedding_model") if collection is None else ("id", "name", "passages")
    print_table(columns, [[row.get(column) for column in columns] for row in rows])


@app.command("search")
def search(
    text: Annotated[str, typer.Argument(help="What to search for.")],
    collection: Collection = COLLECTION,
    top_k: TopK = 5,
    shared: Shared = False,
    url: Url = URL,
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Show the passages that fit best. No model writes anything.

    Examples: genai docs search "days of leave"
    """
    found = Service(url, key).post(f"{_base(shared)}/{collection}/query", {"query": text, "top_k": top_k})
    if as_json:
        print_json(found)
        return
    for passage in found["passages"]:
        page = f", page {passage['page']}" if passage["page"] else ""
        place = f"{passage['score']:.3f}  {passage['name']}{page}  {' > '.join(passage['heading'])}"
        typer.echo(printable(f"{place}\n    {passage['text'].strip()}\n"))


@app.command("ask")
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    collection: Collection = COLLECTION,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Who writes the answer.")] = None,
    top_k: TopK = 5,
    shared: Shared = False,
    url: Url = URL,
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Answer a question from the documents, with the places that the answer comes from.

    Examples: genai docs ask "How many days of leave are there?"
    """
    body: dict[str, Any] = {"prompt": question, "top_k": top_k} | ({"model": model} if model else {})
    answer = Service(url, key).post(f"{_base(shared)}/{collection}/generate", body)
    if as_json:
        print_json(answer)
        return
    print_text([answer["response"]])
    cited = cited_in(answer)
    if answer["citations"] and not cited:
        typer.echo("The answer names no passage. These were found:")
    for citation in cited or answer["citations"]:
        page = f", page {citation['page']}" if citation["page"] else ""
        place = f"[{citation['number']}] {citation['name']}{page}  {' > '.join(citation['heading'])}"
        typer.echo(printable(place))


def cited_in(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The citations whose numbers stand in the answer's text, in order."""
    named = {int(number) for number in REFERENCE.findall(answer["response"])}
    return [citation for citation in answer["citations"] if citation["number"] in named]


@app.command("rm")
def remove(
    collection: Annotated[str, typer.Option("--collection", "-c", help="The collection's name.")],
    document: Annotated[str | None, typer.Argument(help="A document's id; without one, the collection goes.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    shared: Shared = False,
    url: Url = URL,
    key: Key = "",
) -> None:
    """Delete a document, or a whole collection.

    Examples: genai docs rm -c work 9f2d... · genai docs rm -c work --yes
    """
    if document is None and not yes:
        typer.confirm(f"Delete the collection {collection} with all its documents?", abort=True)
    path = f"{_base(shared)}/{collection}" + (f"/documents/{document}" if document else "")
    Service(url, key).delete(path)


def _batches(files: list[tuple[Path, str]]) -> list[list[tuple[Path, str]]]:
    """Files in uploads of a bounded size; one that is larger goes alone."""
    batches: list[list[tuple[Path, str]]] = []
    size = BATCH_BYTES
    for path, label in files:
        length = path.stat().st_size
        if size + length > BATCH_BYTES or len(batches[-1]) >= BATCH_FILES:
            batches.append([])
            size = 0
        batches[-1].append((path, label))
        size += length
    return batches


def wait_for_job(service: Service, job: str, *, quiet: bool) -> dict[str, Any]:
    """Wait until a job has ended and return it."""
    pause = POLL_SECONDS
    while True:
        state: dict[str, Any] = service.get(f"/rag/jobs/{job}")
        if state["status"] in ENDED:
            return state
        if not quiet and sys.stderr.isatty():
            done = sum(file["status"] in ENDED for file in state["files"])
            typer.echo(f"\r{done} of {len(state['files'])} files", nl=False, err=True)
        service.sleep(pause)
        pause = min(pause * SLOWER, LONGEST_POLL)


def _why(file: dict[str, Any]) -> str:
    error = file["error"]
    return str(error.get("message") if isinstance(error, dict) else error)
