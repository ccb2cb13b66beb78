"""Reads the file of agents: YAML in, checked objects out, or every fault at once. Imports YAML, so it comes in late."""

from collections.abc import Iterable
from pathlib import Path

from apps.agents.config import AgentsConfig, AgentsConfigError
from apps.core.yaml_file import read_yaml, validated, whole


def load_agents_config(path: Path, tools: Iterable[str]) -> AgentsConfig:
    """Read and check the file, whole; ``tools`` are the names that agents may use beside those of MCP servers.

    Raises AgentsConfigError; values are not repeated, they may be secrets.
    """
    config, faults = validated(read_yaml(path, AgentsConfigError), AgentsConfig)
    if config is not None:
        faults = dangling_tools(config, tools)
    return whole(path, config, faults, AgentsConfigError)


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
