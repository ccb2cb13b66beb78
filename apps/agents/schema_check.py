"""Values against JSON schemas of any draft. A check that cannot be made fails no call."""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft201909Validator, Draft202012Validator, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry

LONGEST_FAULT = 200
MOST_FAULTS = 5

log = logging.getLogger(__name__)


class SchemaCheck:
    """``schema`` says its own draft by ``$schema``; without one it is 2020-12, or 2019-09 where it has tuples."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        kind = validator_for(schema, default=Draft202012Validator)
        if kind is Draft202012Validator and _has_tuples(schema):
            kind = Draft201909Validator
        # a registry of its own: the default one would fetch what a schema refers to
        made = extend(kind, {"pattern": _pattern})  # type: ignore[no-untyped-call]
        self._validator: Validator = made(schema, registry=Registry())

    def faults(self, value: Any) -> list[str]:
        """What is wrong with a value, in short; nothing where it is right, or where the schema cannot be checked."""
        found: list[str] = []
        try:
            for fault in self._validator.iter_errors(value):
                found.append(fault.message[:LONGEST_FAULT])
                if len(found) == MOST_FAULTS:
                    break
        except Exception as error:
            # the schema is a stranger's: its own server judges the call
            log.warning("A schema cannot be checked: %s", type(error).__name__)
        return found


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """As the standard's own check, but for patterns that Python's `re` does not know, as ``\\p{L}``."""
    if not isinstance(instance, str) or not isinstance(pattern, str):
        return
    try:
        matches = re.search(pattern, instance) is not None
    except (re.error, RecursionError):
        return
    if not matches:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _has_tuples(schema: Any) -> bool:
    """Whether ``items`` is an array of schemas somewhere, as before 2020-12."""
    if isinstance(schema, list):
        return any(_has_tuples(one) for one in schema)
    if not isinstance(schema, Mapping):
        return False
    return isinstance(schema.get("items"), list) or any(_has_tuples(child) for child in schema.values())
