"""What the scripts of this folder share: where the two services are, and what the scripted model answers.

Each script is a program of its own, run with the clients' environment: arguments are the base URLs of a service whose
local model follows a script, and of one with the packaged model.
"""

import os
import sys

SCRIPTED, PACKAGED = sys.argv[1:3]
MODEL = "tiny"
SMOL = os.environ.get("PACKAGED_NAME", "")
EMBEDDER = "all-MiniLM-L6-v2"
KEY = "unused"
QUESTION = "What is the weather in Paris?"
HELLO = "Hello there."
SUNNY = "It is sunny in Paris."


def weather(city: str) -> str:
    """The weather of a city."""
    assert city == "Paris"
    return "sunny"
