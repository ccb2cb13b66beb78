"""Files that an operator writes: read, checked whole, all faults reported at once and without values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


def read_config(path: Path, wrong: type[Exception]) -> Any:
    """What is in the file of YAML. Raises ``wrong`` with one line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise wrong(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise wrong(f"{path}: not UTF-8") from None
    return parsed(text, path, wrong)


def parsed(text: str, path: Path, wrong: type[Exception]) -> Any:
    """What a text of YAML says; ``path`` is what it is called. Raises ``wrong`` with one line."""
    # most starts need no YAML
    from apps.core.yaml_file import parse_yaml

    return parse_yaml(text, path, wrong)


def validated(content: Any, model: type[M]) -> tuple[M | None, list[str]]:
    """The content as the model has it, or its faults; values are not repeated in them, they may be secrets."""
    try:
        return model.model_validate(content), []
    except ValidationError as error:
        return None, [
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]


def whole(path: Path, config: M | None, faults: Sequence[str], wrong: type[Exception]) -> M:
    """The config where there is no fault. Raises ``wrong`` with one line a fault."""
    if config is None or faults:
        raise wrong("\n".join(f"{path}: {fault}" for fault in faults))
    return config
