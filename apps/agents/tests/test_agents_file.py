"""The file of agents: the example that ships is right, and every fault of a wrong one is told at once."""

from pathlib import Path

import pytest

from apps.agents.config import AgentConfig, AgentsConfigError, load_agents_config

EXAMPLE = Path(__file__).parents[3] / "infra" / "agents.example.yaml"
TOOLS = ["calculator", "clock", "fetch", "search"]


def test_the_example_is_right_and_lets_nothing_out() -> None:
    config = load_agents_config(EXAMPLE, TOOLS)
    assert set(config.agents) == {"calculator", "researcher", "extractor"}
    assert config.fetch.allow == ()
    assert config.mcp_servers == {}
    calculator = config.agents["calculator"]
    assert (calculator.model, calculator.first_step) == ("local", "tool")
    assert {tool.tool for tool in config.agents["researcher"].tools if tool.approval} == {"fetch"}


def test_the_bounds_are_those_that_the_documentation_names() -> None:
    limits = AgentConfig().limits
    assert (limits.steps, limits.tool_seconds, limits.seconds) == (10, 30, 300)


WRONG = {
    "agents: {a: {tools: [nothing]}}": ["agents.a.tools.0: no tool is named nothing"],
    "agents: {a: {tools: [clock, clock]}}": ["agents.a.tools.1: clock stands there twice"],
    "agents: {a: {model: agent/b}, b: {first_step: tool}}": [
        "agents.a: an agent cannot be an agent's model",
        "agents.b: first_step: tool needs tools",
    ],
    "agents: {A b: {}}": ["agents.A b"],
    "agents: {a: {unknown: 1}}": ["agents.a.unknown: Extra inputs are not permitted"],
    "agents: {a: {limits: {steps: 0, seconds: .inf}}}": ["agents.a.limits.steps", "agents.a.limits.seconds"],
    "mcp_servers: {s: {}}": ["mcp_servers.s: either command or url"],
    "mcp_servers: {s: {url: ftp://x}}": ["mcp_servers.s.url"],
    "mcp_servers: {s: {command: [x], tools: [t]}}\nagents: {a: {tools: [s/t, s/u, s/*]}}": ["no tool is named s/u"],
    "fetch: {allow: ['http://x.com/']}": ["fetch.allow"],
    "agents: {a: {}, a: {}}": ["the same key twice at line 1"],
    "agents:\n  a: {}\n  a: {}\n": ["the same key twice at line 3"],
    "agents: [": ["not YAML"],
    "": ["file"],
}


@pytest.mark.parametrize(("content", "faults"), WRONG.items())
def test_every_fault_is_told(content: str, faults: list[str], tmp_path: Path) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(content)
    with pytest.raises(AgentsConfigError) as raised:
        load_agents_config(file, TOOLS)
    lines = str(raised.value).splitlines()
    assert len(lines) == len(faults), lines
    for line, fault in zip(lines, faults, strict=True):
        assert fault in line


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(AgentsConfigError, match="No such file"):
        load_agents_config(tmp_path / "none.yaml", TOOLS)
