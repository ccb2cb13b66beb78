"""Reads the routing file: YAML in, checked objects out, or every fault at once."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from apps.models.gateway.config import GatewayConfig, GatewayConfigError

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


def load_gateway_config(path: Path) -> GatewayConfig:
    """Read and check the file, whole. Raises GatewayConfigError; values are not repeated, they may be secrets."""
    try:
        content: Any = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise GatewayConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise GatewayConfigError(f"{path}: not UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise GatewayConfigError(f"{path}: {_not_yaml(error)}") from None
    faults = _dangling_names(content)
    try:
        config = GatewayConfig.model_validate(content)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
        ] + faults
    if faults:
        raise GatewayConfigError("\n".join(f"{path}: {fault}" for fault in faults))
    return config


def _not_yaml(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = DUPLICATE if getattr(error, "problem", None) == DUPLICATE else "not YAML"
    return f"{problem} at line {mark.line + 1}" if mark else problem


def _dangling_names(content: Any) -> list[str]:
    """Names that lead nowhere; read from the file as it is, so that they are reported beside every other fault."""
    file = _mapping(content)
    providers, models = _mapping(file.get("providers")), _mapping(file.get("models"))
    faults = []
    for name, model in models.items():
        for i, target in enumerate(_sequence(_mapping(model).get("targets"))):
            provider = _mapping(target).get("provider")
            if isinstance(provider, str) and provider not in providers:
                faults.append(f"models.{name}.targets.{i}.provider: no provider is named {provider}")
        for i, other in enumerate(_sequence(_mapping(model).get("fallbacks"))):
            if isinstance(other, str) and other not in models:
                faults.append(f"models.{name}.fallbacks.{i}: no model is named {other}")
    default = file.get("default_provider")
    if isinstance(default, str) and default not in providers:
        faults.append(f"default_provider: no provider is named {default}")
    return faults


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
