"""guidance: a chat as it asks OpenAI for one, and grammars as it asks vLLM for them."""

import re

from guidance import assistant, gen, models, select, user
from guidance.models.experimental import VLLMModel
from support import HELLO, KEY, MODEL, PACKAGED, SCRIPTED, SMOL


def asked(model, question):
    with user():
        return model + question


told = asked(models.OpenAI(MODEL, echo=False, base_url=f"{SCRIPTED}/v1", api_key=KEY), "Hello")
with assistant():
    told += gen("said")
assert told["said"] == HELLO

held = VLLMModel(SMOL, echo=False, base_url=f"{PACKAGED}/v1", api_key=KEY)
number = asked(held, "Say a number.")
with assistant():
    number += gen("number", regex=r"[0-9]{3}")
assert re.fullmatch(r"[0-9]{3}", number["number"]), number["number"]
chosen = asked(held, "Is snow white?")
with assistant():
    chosen += select(["yes", "no"], name="chosen")
assert chosen["chosen"] in ("yes", "no")
