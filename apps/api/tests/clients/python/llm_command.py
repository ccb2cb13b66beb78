"""llm: its models and its command, with a stream, a tool and a schema."""

import json
import os
import subprocess
import sys
from pathlib import Path

from support import HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL, SUNNY, weather

folder = Path.cwd() / "llm"
folder.mkdir()
os.environ["LLM_USER_PATH"] = str(folder)
more = {"can_stream": True, "supports_tools": True, "supports_schema": True}
known = [
    {"model_id": "here", "model_name": MODEL, "api_base": f"{SCRIPTED}/v1", **more},
    {"model_id": "small", "model_name": SMOL, "api_base": f"{PACKAGED}/v1", **more},
]
# it reads YAML, and JSON is that
(folder / "extra-openai-models.yaml").write_text(json.dumps(known))

import llm  # noqa: E402 - it looks for its folder when it is imported

model = llm.get_model("here")
model.key = KEY
assert model.prompt("Hello").text() == HELLO
assert "".join(model.prompt("Hello", stream=True)) == HELLO
assert model.chain(QUESTION, tools=[weather]).text() == SUNNY
person = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
assert json.loads(model.prompt("Who?", schema=person).text()) == {"name": "Ada", "age": 36}
small = llm.get_model("small")
small.key = KEY
told = small.prompt("Say hello.", max_tokens=8, temperature=0.0, seed=3)
assert told.text() and told.usage().output <= 8

said = subprocess.run(
    [sys.executable, "-m", "llm", "-m", "here", "--key", KEY, "Hello"],
    capture_output=True,
    text=True,
    timeout=120,
    stdin=subprocess.DEVNULL,
)
assert said.stdout.strip() == HELLO, said.stderr
