"""Reads the file of agents: YAML in, checked objects out, or every fault at once. Imports YAML, so it comes in late."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from apps.agents.config import AgentsConfig, AgentsConfigError

DUPLICATE = "the same key twice"


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys and says nothing; of two agents with one name, one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(names) != len(set(names)):
            raise yaml.constructor.ConstructorError(None, None, DUPLICATE, node.start_mark)
        return super().construct_mapping(node, deep)


def load_agents_config(path: Path, tools: Iterable[str]) -> AgentsConfig:
    """Read and check the file, whole; ``tools`` are the names that agents may use beside those of MCP servers.

    Raises AgentsConfigError; values are not repeated, they may be secrets.
    """
    try:
        content: Any = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise AgentsConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AgentsConfigError(f"{path}: not UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise AgentsConfigError(f"{path}: {_not_yaml(error)}") from None
    try:
        config = AgentsConfig.model_validate(content)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
    else:
        faults = dangling_tools(config, tools)
    if faults:
        raise AgentsConfigError("\n".join(f"{path}: {fault}" for fault in faults))
    return config


def dangling_tools(config: AgentsConfig, tools: Iterable[str]) -> list[str]:
    """Tools of agents that nobody offers, and ones that are named twice."""
    known = set(tools)
    for server, declared in config.mcp_servers.items():
        known.update(f"{server}/{tool}" for tool in (*declared.tools, "*"))
    faults = []
    for name, agent in config.agents.items():
        names = [tool.tool for tool in agent.tools]
        for i, tool in enumerate(names):
            if tool not in known:
                faults.append(f"agents.{name}.tools.{i}: no tool is named {tool}")
            elif tool in names[:i]:
                faults.append(f"agents.{name}.tools.{i}: {tool} stands there twice")
    return faults


def _not_yaml(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = DUPLICATE if getattr(error, "problem", None) == DUPLICATE else "not YAML"
    return f"{problem} at line {mark.line + 1}" if mark else problem
