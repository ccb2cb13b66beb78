"""`genai docs ingest --ray`: documents of a folder or an object store taken in by tasks of Ray, on one machine or many.

python -m infra.ray.ingest PATH_OR_URL ... --collection NAME [--tenant NAME] [--cpus N]

A file is parsed and embedded by a task each, and written by the one writer of the collection. Ray repeats what was on a
worker that has died; what was written whole is found there, so nothing is lost or doubled, and a second run goes on
where the first was broken off. On a cluster each machine needs the same environment, and an index that all of them
reach (RAG_URI, or a shared DATA_DIR).
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from pyarrow import fs

from apps.cli.documents import find_files
from apps.core.callers import SHARED
from apps.core.errors import AppError, InvalidValue
from apps.core.settings import SettingsError, load_settings
from apps.rag.parsing.formats import BY_SUFFIX
from apps.rag.records import collection_name
from apps.rag.uploads import is_remote
from infra.ray.app import ROOT
from infra.ray.stages import Place
from infra.ray.tasks import Failure, Source, Target, Writer, embedded, parsed
from infra.ray.up import OWN, local_arguments

# of a worker that dies: a file that kills each is given up
RETRIES = 20
# of each core, so that none waits for the driver
IN_FLIGHT = 3


def sources(given: Sequence[str]) -> tuple[list[Source], list[tuple[str, str]]]:
    """Files of folders, of URLs and by their names; and what was left out, with the reason."""
    found = find_files([Path(one) for one in given if not is_remote(one)])
    taken = [Source(label, str(path.absolute())) for path, label in found.taken]
    skipped = [(str(path), reason) for path, reason in found.skipped]
    for url in given:
        if is_remote(url):
            more, left_out = _listed(url)
            taken, skipped = taken + more, skipped + left_out
    return taken, skipped


def _listed(url: str) -> tuple[list[Source], list[tuple[str, str]]]:
    """What is under a URL, by the rules of folders. Raises InvalidValue for one that leads nowhere."""
    url = url.replace(" ", "%20")
    try:
        store, top = fs.FileSystem.from_uri(url)
    except ValueError as error:
        raise InvalidValue(f"{url} cannot be read: {error}") from None
    scheme = url.partition("://")[0]
    taken, skipped = list[Source](), list[tuple[str, str]]()
    info = store.get_file_info(top)
    files = [info] if info.is_file else store.get_file_info(fs.FileSelector(top, recursive=True))
    for file in sorted(files, key=lambda one: one.path):
        if not file.is_file:
            continue
        parts = Path(file.path).relative_to(top).parts or (file.base_name,)
        at = f"{scheme}://{file.path}"
        if any(part.startswith(".") for part in parts):
            skipped.append((at, "hidden"))
        elif not info.is_file and Path(file.path).suffix.lower() not in BY_SUFFIX:
            skipped.append((at, "no suffix that is known here"))
        else:
            taken.append(Source(" - ".join(parts), file.path, url))
    return taken, skipped


def outcomes(target: Target, files: Sequence[Source], in_flight: int) -> Iterator[tuple[str, int | Failure]]:
    """Each file's passages, or why there are none, in the order in which they end."""
    parse, embed = (ray.remote(max_retries=RETRIES)(task) for task in (parsed, embedded))
    alone = {"num_cpus": 0, "max_concurrency": 1, "max_restarts": -1, "max_task_retries": -1}
    writer: Any = ray.remote(**alone)(Writer).remote(target)
    running: dict[Any, Source] = {}
    for source in files:
        while len(running) >= in_flight:
            yield from _ended(running)
        running[writer.put.remote(embed.remote(target, parse.remote(target, source)))] = source
    while running:
        yield from _ended(running)
    ray.get(writer.finish.remote())


def _ended(running: dict[Any, Source]) -> Iterator[tuple[str, int | Failure]]:
    done, _ = ray.wait(list(running), num_returns=1)
    for one in done:
        source = running.pop(one)
        try:
            yield source.label, ray.get(one)
        except ray.exceptions.RayError as error:
            yield source.label, Failure(source.label, f"Its worker died too often: {type(error).__name__}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="genai docs ingest --ray", description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", metavar="PATH_OR_URL")
    parser.add_argument("--collection", required=True)
    parser.add_argument("--tenant", default=SHARED)
    parser.add_argument("--cpus", type=int, help="cores of this machine, without a cluster (default: all)")
    options = parser.parse_args(arguments)
    try:
        settings, name = load_settings(), collection_name(options.collection)
        files, skipped = sources(options.sources)
    except (AppError, SettingsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for at, reason in skipped:
        print(f"Skipped {at}: {reason}", file=sys.stderr)
    if not files:
        print("No files to ingest there", file=sys.stderr)
        return 1
    for variable, value in OWN.items():
        os.environ.setdefault(variable, value)
    # tasks import this module, wherever they run
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    cores = {} if options.cpus is None else {"num_cpus": options.cpus}
    ray.init(log_to_driver=False, **local_arguments(cores))
    try:
        place = Place(options.tenant, name)
        target = Target(place, str(settings.data_dir.absolute()), settings.rag_uri)
        return _told(target, files, int(ray.cluster_resources().get("CPU", 1)) * IN_FLIGHT)
    finally:
        ray.shutdown()


def _told(target: Target, files: Sequence[Source], in_flight: int) -> int:
    """Print what becomes of each; 1 where one failed."""
    done = passages = 0
    for label, outcome in outcomes(target, files, in_flight):
        if isinstance(outcome, Failure):
            print(f"{label}: {outcome.message}", file=sys.stderr, flush=True)
        else:
            done, passages = done + 1, passages + outcome
            print(f"{label}: {outcome} passages", flush=True)
    print(f"{done} of {len(files)} files are in {target.place.collection}, {passages} passages")
    return int(done < len(files))


if __name__ == "__main__":
    sys.exit(main())
