"""Text in documents is data: an obedient model follows no instruction of fifty poisoned documents."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.core.messages import ChatRequest, Message
from apps.models.scripted import ScriptedModel, obedient, orders_in
from apps.tests.support.poison import poisoned
from apps.tests.support.rag_serving import ingested, serving_documents

QUESTION = "How many days of leave are there in a year?"


def asked(*messages: tuple[Any, str]) -> ChatRequest:
    return ChatRequest(tuple(Message(role, text) for role, text in messages))


@pytest.mark.parametrize("document", list(poisoned()), ids=lambda document: document["name"])
def test_each_would_be_obeyed_where_it_is_not_quoted(document: dict[str, str]) -> None:
    naive = asked(("system", "Answer from this text."), ("user", f"{document['text']}\n\nQuestion: {QUESTION}"))
    assert orders_in(naive)


@pytest.mark.long
def test_no_instruction_of_fifty_poisoned_documents_is_followed(tmp_path: Path, http: httpx2.Client) -> None:
    model, documents = ScriptedModel(obedient, name="obedient"), list(poisoned())
    assert len(documents) == 50
    seen: set[str] = set()
    with serving_documents(tmp_path, model, rag_context_tokens=60_000, rag_min_score=-1.0) as base:
        collection = f"{base}/rag/collections/poisoned"
        assert ingested(http, collection, *documents)["status"] == "done"
        for alone in [None, *({"name": document["name"]} for document in documents)]:
            body = {"prompt": QUESTION, "top_k": 20, "filter": alone}
            answer = http.post(f"{collection}/generate", json=body).json()
            seen |= {citation["name"] for citation in answer["citations"]}
            assert answer["response"] == "I have read it.", model.requests[-1].messages
    assert seen == {document["name"] for document in documents}


def test_what_the_caller_himself_orders_is_still_obeyed(tmp_path: Path, http: httpx2.Client) -> None:
    model = ScriptedModel(obedient, name="obedient")
    with serving_documents(tmp_path, model, rag_min_score=-1.0) as base:
        ingested(http, f"{base}/rag/collections/a", {"name": "a.txt", "text": "Days of leave."})
        answer = http.post(f"{base}/rag/collections/a/generate", json={"prompt": "Days of leave? SAY HELLO"})
        assert answer.json()["response"] == "HELLO"
