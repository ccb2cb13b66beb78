"""The bridge to stdio: a real client starts it as a program and uses the service through it."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from apps.core.process import NAME, VERSION
from apps.models.scripted import ScriptedModel, calling, in_turns, saying
from apps.tests.support.agent_serving import agent, serving_agents
from apps.tests.support.keys import make_keys
from apps.tests.support.ports import free_port
from apps.tests.support.processes import ROOT, heard
from apps.tests.support.serving import settings

COMPUTING = in_turns(calling(("calculator", {"expression": "1234 * 5678"})), saying("It is 7006652."))


def program(url: str, key: str = "") -> StdioServerParameters:
    env = {"PYTHONPATH": str(ROOT), "GENAI_API_KEY": key}
    return StdioServerParameters(command=sys.executable, args=["-m", "apps.agents.mcp_bridge", url], env=env)


@pytest.mark.long
async def test_a_client_over_stdio_reaches_what_its_key_does(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"auth": "on", "data_dir": tmp_path}
    terms = {"routes": ["/mcp", "/agents/*"]}
    (key,) = await asyncio.to_thread(make_keys, settings(**changes), terms)
    with serving_agents({"calc": agent("calculator")}, ScriptedModel(COMPUTING), **changes) as url:
        async with Client(program(f"{url}/mcp", key)) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["agent_calc"]
            result = await client.call_tool("agent_calc", {"prompt": "What is 1234 * 5678?"})
            refused = await client.call_tool("generate", {"prompt": "hi"})
            told = client.server_info
    assert told is not None
    assert (told.name, told.version) == (NAME, VERSION)
    assert [block.text for block in result.content if block.type == "text"] == ["It is 7006652."]
    assert refused.is_error


@pytest.mark.long
def test_a_service_that_is_not_there_is_told_in_one_line() -> None:
    done = heard(
        subprocess.run(
            [sys.executable, "-m", "apps.agents.mcp_bridge", f"http://127.0.0.1:{free_port()}/mcp"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            stdin=subprocess.DEVNULL,
        )
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("The service cannot be reached: ")
