"""Files of YAML that an operator writes: read strictly, checked whole, all faults reported at once and without values.

The one place that imports YAML; imported by the readers of such a file, where a setting names one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)
DUPLICATE = "the same key twice"


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys and says nothing; here that is a fault, since one of them is lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, DUPLICATE, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, wrong: type[Exception]) -> Any:
    """What is in the file. Raises ``wrong`` with one line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise wrong(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise wrong(f"{path}: not UTF-8") from None
    return parse_yaml(text, path, wrong)


def parse_yaml(text: str, path: Path, wrong: type[Exception]) -> Any:
    """What a text says; ``path`` is what it is called. Raises ``wrong`` with one line."""
    try:
        return yaml.load(text, _UniqueKeys)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise wrong(f"{path}: {_not_yaml(error)}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        # the reader's own conversions, of a date that there is not or of a tag that does not fit
        raise wrong(f"{path}: a value is not what it looks like (a date, a number or a tag)") from None


def validated(content: Any, model: type[M]) -> tuple[M | None, list[str]]:
    """The content as the model has it, or its faults; values are not repeated in them, they may be secrets."""
    try:
        return model.model_validate(content), []
    except ValidationError as error:
        return None, [
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
        ]


def whole(path: Path, config: M | None, faults: Sequence[str], wrong: type[Exception]) -> M:
    """The config where there is no fault. Raises ``wrong`` with one line a fault."""
    if config is None or faults:
        raise wrong("\n".join(f"{path}: {fault}" for fault in faults))
    return config


def _not_yaml(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = DUPLICATE if getattr(error, "problem", None) == DUPLICATE else "not YAML"
    return f"{problem} at line {mark.line + 1}" if mark else problem
