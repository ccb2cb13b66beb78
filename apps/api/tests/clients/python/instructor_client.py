"""instructor: objects by tools and by JSON schema, with the scripted and the packaged model."""

import instructor
from openai import OpenAI
from pydantic import BaseModel
from support import KEY, MODEL, PACKAGED, SCRIPTED, SMOL


class Person(BaseModel):
    name: str
    age: int


ASKED = [{"role": "user", "content": "Ada is 36 years old."}]
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.JSON):
    client = instructor.from_openai(OpenAI(base_url=f"{SCRIPTED}/v1", api_key=KEY), mode=mode)
    person = client.chat.completions.create(model=MODEL, messages=ASKED, response_model=Person, max_retries=0)
    # an instance with the raw answer beside its fields
    assert (person.name, person.age) == ("Ada", 36), mode
# the packaged model is small: what holds is the schema
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(OpenAI(base_url=f"{PACKAGED}/v1", api_key=KEY), mode=mode)
    person = client.chat.completions.create(
        model=SMOL, messages=ASKED, response_model=Person, max_retries=0, max_tokens=60, temperature=0
    )
    assert isinstance(person, Person), mode
