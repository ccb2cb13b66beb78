"""ZIP packages of office documents: their parts by relationship, read within limits; names of parts mean nothing.

Open Packaging Conventions (ECMA-376 part 2): `_rels/.rels` names the main part, and a part's own `_rels` what it uses.
"""

import posixpath
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote
from xml.etree import ElementTree

from apps.rag.records import Kind

# unpacked; what an archive says of its size is checked again by the memory limit while it is unpacked
LARGEST_PART = 200 * 2**20
LARGEST_PACKAGE = 400 * 2**20
OFFICE_DOCUMENT = "officeDocument"
KINDS: dict[str, Kind] = {
    "wordprocessingml": "docx",
    "ms-word": "docx",
    "presentationml": "pptx",
    "spreadsheetml": "xlsx",
}
ROOTS: dict[str, Kind] = {"word": "docx", "ppt": "pptx", "xl": "xlsx"}
KINDS |= {"ms-powerpoint": "pptx", "ms-excel": "xlsx"}


class TooLarge(Exception):
    """A package that unpacks to more than is allowed."""


@dataclass(frozen=True, slots=True)
class Relationship:
    """``kind`` is the last word of its type, such as ``styles``; ``target`` a part's name, or a URL outside."""

    id: str
    kind: str
    target: str
    external: bool = False


@dataclass(frozen=True, slots=True)
class MainPart:
    name: str
    kind: Kind | None


def check_sizes(archive: zipfile.ZipFile) -> None:
    """Raises TooLarge by what the archive says of itself."""
    sizes = [info.file_size for info in archive.infolist()]
    if max(sizes, default=0) > LARGEST_PART or sum(sizes) > LARGEST_PACKAGE:
        raise TooLarge


def read_part(archive: zipfile.ZipFile, name: str) -> bytes:
    """Raises KeyError for a part that is not there, and TooLarge."""
    with archive.open(_actual(archive, name)) as part:
        data = part.read(LARGEST_PART + 1)
    if len(data) > LARGEST_PART:
        raise TooLarge
    return data


def media_type(archive: zipfile.ZipFile) -> str:
    """What an OpenDocument or EPUB package says it is; empty for others."""
    try:
        return read_part(archive, "mimetype")[:200].decode("ascii", "replace").strip()
    except KeyError:
        return ""


def main_part(archive: zipfile.ZipFile) -> MainPart:
    """The main part of an Office Open XML package; an empty name where there is none."""
    try:
        found = [one for one in relationships(archive, "") if one.kind == OFFICE_DOCUMENT]
        types = read_part(archive, "[Content_Types].xml")
    except (KeyError, ElementTree.ParseError):
        return MainPart("", None)
    if not found:
        return MainPart("", None)
    name = found[0].target
    content_type = _content_type(types, name)
    kind = next((kind for word, kind in KINDS.items() if word in content_type), None)
    return MainPart(name, kind or ROOTS.get(name.partition("/")[0]))


def relationships(archive: zipfile.ZipFile, part: str) -> list[Relationship]:
    """Of a part, or of the package for an empty name; none where it has none."""
    folder, base = posixpath.split(part)
    try:
        data = read_part(archive, posixpath.join(folder, "_rels", f"{base}.rels"))
    except KeyError:
        if not part:
            raise
        return []
    return [*_relationships(data, folder)]


def _relationships(data: bytes, folder: str) -> Iterator[Relationship]:
    for element in ElementTree.fromstring(data):  # noqa: S314 - see the import
        attributes, target = element.attrib, element.attrib.get("Target", "")
        external = attributes.get("TargetMode") == "External"
        if not external:
            joined = target if target.startswith("/") else posixpath.join(folder, unquote(target))
            target = posixpath.normpath(joined).lstrip("/")
        yield Relationship(attributes.get("Id", ""), attributes.get("Type", "").rpartition("/")[2], target, external)


def _content_type(types: bytes, name: str) -> str:
    suffix, default = name.rpartition(".")[2].lower(), ""
    for element in ElementTree.fromstring(types):  # noqa: S314 - see the import
        if element.get("PartName", "").lstrip("/").lower() == name.lower():
            return element.get("ContentType", "")
        if element.get("Extension", "").lower() == suffix:
            default = element.get("ContentType", "")
    return default


def _actual(archive: zipfile.ZipFile, name: str) -> str:
    """Names of parts are equal whatever the case of their letters; some writers use backslashes."""
    if name in archive.NameToInfo:
        return name
    wanted = name.lower()
    for other in archive.namelist():
        if other.replace("\\", "/").lstrip("/").lower() == wanted:
            return other
    raise KeyError(name)
