"""Text of pictures and scanned pages, by tesseract: a command of its own, under the limits of this process."""

import os
import subprocess
from collections.abc import Iterator
from typing import BinaryIO

from apps.rag.parsing.kinds import unreadable
from apps.rag.parsing.sections import OcrOptions, Reading, Section

SECONDS = 60
MOST_PIXELS = 100_000_000


def sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    if reading.ocr.command is None:
        raise unreadable(f"It is an image, and images are not recognised here: {reading.ocr.reason}")
    yield Section(recognised(file.read(), reading.ocr).strip(), page=1)


def recognised(image: bytes, options: OcrOptions) -> str:
    """The text of an image file in any format that tesseract reads. Raises InvalidValue."""
    if options.command is None:
        raise unreadable(f"Images are not recognised here: {options.reason}")
    command = [str(options.command), "stdin", "stdout", "-l", options.languages]
    # one thread: its own threads wait for each other more than they gain on a page
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - the command is the operator's, the image goes in as data
            command, input=image, capture_output=True, timeout=SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise unreadable("It takes longer to recognise than is allowed") from None
    if done.returncode:
        raise unreadable("tesseract cannot recognise it: it is damaged, too large, or no image")
    return done.stdout.decode("utf-8", "replace").replace("\f", "")
