"""Reads the routing file: YAML in, checked objects out, or every fault at once."""

from pathlib import Path
from typing import Any

from apps.core.yaml_file import read_yaml, validated, whole
from apps.gateway.routing.config import GatewayConfig, GatewayConfigError


def load_gateway_config(path: Path) -> GatewayConfig:
    """Read and check the file, whole. Raises GatewayConfigError; values are not repeated, they may be secrets."""
    content = read_yaml(path, GatewayConfigError)
    config, faults = validated(content, GatewayConfig)
    return whole(path, config, faults + _dangling_names(content), GatewayConfigError)


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
