"""YAML, read strictly. The one place that imports it; imported where a setting names such a file."""

from pathlib import Path
from typing import Any

import yaml

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


def parse_yaml(text: str, path: Path, wrong: type[Exception]) -> Any:
    """What a text says; ``path`` is what it is called. Raises ``wrong`` with one line."""
    try:
        return yaml.load(text, _UniqueKeys)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise wrong(f"{path}: {_not_yaml(error)}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        # the reader's own conversions, of a date that there is not or of a tag that does not fit
        raise wrong(f"{path}: a value is not what it looks like (a date, a number or a tag)") from None


def _not_yaml(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = DUPLICATE if getattr(error, "problem", None) == DUPLICATE else "not YAML"
    return f"{problem} at line {mark.line + 1}" if mark else problem
