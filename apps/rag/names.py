"""What a tenant, a collection, a file and a field of metadata may be called. Names are labels: never a path."""

import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from apps.core.errors import InvalidType, InvalidValue
from apps.rag.records import Metadata, MetadataValue

COLLECTION = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DOCUMENT = re.compile(r"[0-9a-f]{64}")
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
DRIVE = re.compile(r"[A-Za-z]:")
OWN_FIELDS = frozenset({"name", "document", "page", "kind"})
"""What a filter knows by itself; metadata may not be called so."""

LONGEST_NAME = 255
LONGEST_STRING = 1000
MOST_KEYS = 32
# what a float64 still tells apart: filters compare numbers as such
LARGEST_INTEGER = 2**53


def tenant_folder(tenant: str) -> str:
    """A tenant's folder in the index. A digest: no tenant's name can reach another's folder."""
    if not isinstance(tenant, str) or not tenant:
        raise ValueError("a tenant is a name, not empty")
    return hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def collection_name(name: str) -> str:
    if not isinstance(name, str) or not COLLECTION.fullmatch(name):
        raise InvalidValue(
            "A collection's name is 1 to 63 of a-z, 0-9, _ and -, the first one a letter or a digit",
            field="collection",
        )
    return name


def file_name(name: str) -> str:
    """The name in Unicode's composed form. Raises InvalidValue where it is a path, or could be taken for one."""
    if not isinstance(name, str):
        raise InvalidType("A file's name must be a string", field="name")
    composed = unicodedata.normalize("NFC", name)
    if not 1 <= len(composed) <= LONGEST_NAME or composed != composed.strip():
        raise InvalidValue(f"A file's name is 1 to {LONGEST_NAME} characters, without blanks around it", field="name")
    if "/" in composed or "\\" in composed or composed in (".", "..") or DRIVE.match(composed):
        raise InvalidValue("A file's name is a label, not a path", field="name")
    if not composed.isprintable():
        raise InvalidValue("A file's name must be printable", field="name")
    return composed


def plain_name(name: str) -> str:
    """What may be shown of a name that a document itself gives: its last part, printable and bounded."""
    last = re.split(r"[/\\\\]", unicodedata.normalize("NFC", name))[-1]
    return "".join(char for char in last if char.isprintable()).strip()[:LONGEST_NAME]


def metadata(given: Metadata) -> dict[str, MetadataValue]:
    if not isinstance(given, Mapping):
        raise InvalidType("Metadata must be an object", field="metadata")
    if len(given) > MOST_KEYS:
        raise InvalidValue(f"Metadata has at most {MOST_KEYS} fields", field="metadata")
    for key, value in given.items():
        if not isinstance(key, str) or not KEY.fullmatch(key) or key in OWN_FIELDS:
            raise InvalidValue(
                f"A metadata field is named with A-Z, a-z, 0-9 and _, and not {', '.join(sorted(OWN_FIELDS))}",
                field="metadata",
            )
        scalar(value, f"metadata.{key}")
    return dict(given)


def scalar(value: Any, field: str) -> MetadataValue:
    """A string, a finite number or a boolean. Raises InvalidType and InvalidValue that name ``field``."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        if not math.isfinite(value) or abs(value) > LARGEST_INTEGER:
            raise InvalidValue("A number must be finite, and at most 2^53", field=field)
        return value
    if not isinstance(value, str):
        raise InvalidType("A value must be a string, a number or a boolean", field=field)
    if len(value) > LONGEST_STRING:
        raise InvalidValue(f"A string has at most {LONGEST_STRING} characters here", field=field)
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidValue("A string must be valid Unicode without NUL", field=field)
    return value
