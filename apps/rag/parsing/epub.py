"""EPUB: its pages in the order of its spine, each read as HTML."""

import posixpath
import zipfile
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote
from xml.etree import ElementTree

from apps.rag.parsing.html_page import page_sections
from apps.rag.parsing.kinds import unreadable
from apps.rag.parsing.office import too_large
from apps.rag.parsing.packages import TooLarge, check_sizes, read_part
from apps.rag.parsing.sections import Reading, Section
from apps.rag.parsing.text_encoding import decoded

PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def sections(file: BinaryIO, reading: Reading) -> Iterator[Section]:
    with zipfile.ZipFile(file) as archive:
        try:
            check_sizes(archive)
            if "META-INF/encryption.xml" in archive.namelist() and "META-INF/rights.xml" in archive.namelist():
                raise unreadable("It is encrypted")
            for name in _spine(archive):
                try:
                    page = decoded(read_part(archive, name), reading.warn, declares=True)
                except KeyError:
                    reading.warn(f"A page of it is missing: {posixpath.basename(name)[:100]}")
                    continue
                yield from page_sections(page, reading)
        except TooLarge:
            raise too_large() from None
        except (KeyError, ElementTree.ParseError) as error:
            raise unreadable(f"It is damaged, or not what it says ({type(error).__name__})") from error


def _spine(archive: zipfile.ZipFile) -> Iterator[str]:
    container = ElementTree.fromstring(read_part(archive, "META-INF/container.xml"))  # noqa: S314 - see the import
    package = next(element.attrib["full-path"] for element in container.iter() if _local(element) == "rootfile")
    folder = posixpath.dirname(package)
    items: dict[str, str] = {}
    order: list[str] = []
    for element in ElementTree.fromstring(read_part(archive, package)).iter():  # noqa: S314 - see the import
        if _local(element) == "item" and element.get("media-type") in PAGES:
            items[element.get("id", "")] = posixpath.normpath(posixpath.join(folder, unquote(element.get("href", ""))))
        elif _local(element) == "itemref":
            order.append(element.get("idref", ""))
    return (items[id] for id in order if id in items)


def _local(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]
