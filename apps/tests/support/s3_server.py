"""An S3 server of its own, moto's: `pip install "moto[s3,server]"` here, or where MOTO_SERVER names its program."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from apps.tests.marks import marked
from apps.tests.support.ports import free_port
from apps.tests.support.waiting import until
from apps.tests.watch import WATCH

PROGRAM = os.environ.get("MOTO_SERVER") or shutil.which("moto_server")
needs_s3 = pytest.mark.skipif(
    PROGRAM is None, reason='needs an S3 server: pip install "moto[s3,server]", here or where MOTO_SERVER says'
)


@contextmanager
def s3_server(folder: Path, *buckets: str) -> Iterator[dict[str, str]]:
    """The variables that lead LanceDB and pyarrow to it, when it has the buckets."""
    assert PROGRAM is not None
    url = f"http://127.0.0.1:{free_port()}"
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, "-H", "127.0.0.1", "-p", url.rpartition(":")[2]], stdout=log, stderr=log)
    try:
        assert until(lambda: _answers(url))
        for bucket in buckets:
            httpx2.put(f"{url}/{bucket}", timeout=90).raise_for_status()
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": marked("key of the store"),
            # no machine of this name has roles to give
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        process.kill()
        process.wait()
        WATCH.took_file(folder / "s3.log")


def put(url: str, content: bytes) -> None:
    """Store an object."""
    httpx2.put(url, content=content, timeout=90).raise_for_status()


def _answers(url: str) -> bool:
    with suppress(httpx2.TransportError):
        return httpx2.get(url, timeout=90).status_code == 200
    return False
