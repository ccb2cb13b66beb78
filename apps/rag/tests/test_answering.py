"""RAG is a ChatModel that wraps a ChatModel: where it searches, what it asks, and what it gives back."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest

from apps.core.callers import Caller
from apps.core.calls import Usage
from apps.core.deltas import Answer, Delta, collect
from apps.core.errors import AppError, InvalidValue, ModelUnavailable, NotFound
from apps.core.messages import ChatRequest, JsonObject, Message, user_message
from apps.core.ports import ChatModel, Readiness
from apps.rag.answering import NO_ANSWER, Asking, Place, RagModel, RagModels, own_tenant, place_of
from apps.rag.records import Passage
from apps.rag.relevance import Support

PLACE = Place("handbook")
ALICE = Caller("alice")


def passage(number: int, cosine: float = 0.9, text: str = "") -> Passage:
    told = text or f"Text of passage {number}."
    return Passage(f"p{number}", "d", "a.md", number, ("A",), 0, len(told), told, {}, 0.1, cosine, None, None)


class Shelf:
    """What RagModel needs of a library, and what it was asked."""

    def __init__(self, *passages: Passage) -> None:
        self.passages = list(passages)
        self.asked: list[tuple[Any, ...]] = []

    async def search(
        self, tenant: str, collection: str, text: str, *, top_k: int = 5, filter: Any = None
    ) -> list[Passage]:
        self.asked.append((tenant, collection, text, top_k, filter))
        return self.passages[:top_k]

    def readiness(self) -> Readiness:
        return Readiness("rag", "ready", "there")


class Window:
    control: Collection[str] = ("<stop>",)

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    async def count(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> int:
        return sum(len(str(message.content)) for message in messages)


class Writing:
    """A Writer that says how it was asked; ``error`` instead, where there is one."""

    def __init__(self, tokens: int = 100_000, error: AppError | None = None) -> None:
        self.requests: list[ChatRequest] = []
        self._window = Window(tokens)
        self._error = error
        self.open = 0

    async def window(self, request: ChatRequest) -> Window:
        return self._window

    async def stream(self, request: ChatRequest) -> Any:
        self.requests.append(request)
        self.open += 1
        try:
            if self._error is not None:
                raise self._error
            yield Delta("yes", model="writer")
            yield Delta(finish_reason="stop", usage=Usage(7, 1), model="writer")
        finally:
            self.open -= 1

    def readiness(self) -> Readiness:
        return Readiness("writer", "ready", "there")

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...


def asking(text: str = "What?", **changes: Any) -> ChatRequest:
    return replace(ChatRequest(user_message(text), caller=ALICE), **changes)


async def answer(model: ChatModel, request: ChatRequest) -> Answer:
    return await collect(model.stream(request))


async def test_it_searches_in_the_callers_tenant_for_the_last_user_message() -> None:
    shelf = Shelf(passage(1))
    turns = (*user_message("First?"), Message("assistant", "Yes."), *user_message("And then?"))
    await answer(RagModel(shelf, Writing(), PLACE, 0.3, Asking(3, {"year": 1})), asking(messages=turns))
    assert shelf.asked == [("alice", "handbook", "And then?", 3, {"year": 1})]


async def test_a_shared_collection_is_searched_where_everybody_shares() -> None:
    shelf = Shelf(passage(1))
    await answer(RagModel(shelf, Writing(), Place("handbook", shared=True), 0.3), asking())
    assert shelf.asked[0][0] == "shared"


async def test_the_passages_stand_before_the_last_question_and_the_rest_as_it_was() -> None:
    writing = Writing()
    turns = (*user_message("First?"), Message("assistant", "Yes."), *user_message("And then?"))
    await answer(RagModel(Shelf(passage(1), passage(2)), writing, PLACE, 0.3), asking(messages=turns))
    system, first, reply, last = writing.requests[0].messages
    assert (system.role, first, reply) == ("system", turns[0], turns[1])
    told = str(last.content)
    assert told.index("Text of passage 1.") < told.index("Text of passage 2.") < told.index("Question: And then?")


async def test_parts_of_a_message_stay_parts() -> None:
    writing = Writing()
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    content = ({"type": "text", "text": "What is this?"}, picture)
    shelf = Shelf(passage(1))
    await answer(RagModel(shelf, writing, PLACE, 0.3), asking(messages=(Message("user", content),)))
    assert shelf.asked[0][2] == "What is this?"
    sent: Any = writing.requests[0].messages[1].content
    assert sent[1:] == list(content)


async def test_the_answer_is_the_writers_with_citations_that_are_numbered_as_it_saw_them() -> None:
    whole = await answer(RagModel(Shelf(passage(1), passage(2)), Writing(), PLACE, 0.3), asking())
    assert (whole.text, whole.model, whole.usage) == ("yes", "writer", Usage(7, 1))
    assert whole.citations is not None
    assert [(citation.number, citation.quote) for citation in whole.citations] == [
        (1, "Text of passage 1."),
        (2, "Text of passage 2."),
    ]


async def test_what_is_too_unlike_the_question_is_neither_read_nor_cited() -> None:
    writing = Writing()
    whole = await answer(RagModel(Shelf(passage(1, 0.2), passage(2, 0.4)), writing, PLACE, 0.3), asking())
    assert whole.citations is not None
    assert [(citation.number, citation.page) for citation in whole.citations] == [(1, 2)]
    assert "passage 1." not in str(writing.requests[0].messages[1].content)


@pytest.mark.parametrize("passages", [[], [passage(1, 0.1)]])
async def test_without_a_relevant_passage_nobody_is_asked(passages: list[Passage]) -> None:
    writing = Writing()
    whole = await answer(RagModel(Shelf(*passages), writing, PLACE, 0.3), asking())
    assert (whole.text, whole.citations, whole.usage, whole.model) == (NO_ANSWER, (), Usage(0, 0), "rag/handbook")
    assert writing.requests == []


async def test_passages_go_from_the_last_on_until_prompt_and_answer_fit() -> None:
    passages = [passage(number, text="word " * 100) for number in range(1, 6)]
    writing = Writing(tokens=2600)
    whole = await answer(RagModel(Shelf(*passages), writing, PLACE, 0.3), asking(max_tokens=200))
    assert whole.citations is not None
    kept = len(whole.citations)
    assert 0 < kept < 5
    used = await Window(0).count(writing.requests[0].messages)
    assert used + 200 <= 2600 < used + 200 + 500 + 60


async def test_where_not_even_one_fits_it_is_the_callers_to_ask_for_less() -> None:
    writing = Writing(tokens=500)
    with pytest.raises(InvalidValue) as caught:
        await answer(RagModel(Shelf(passage(1)), writing, PLACE, 0.3), asking(max_tokens=400))
    assert caught.value.field == "max_tokens"
    assert writing.requests == []


async def test_an_answers_length_is_always_told_or_it_could_not_be_left_room_for() -> None:
    writing = Writing()
    await answer(RagModel(Shelf(passage(1)), writing, PLACE, 0.3), asking())
    assert writing.requests[0].max_tokens == 500


async def test_control_texts_of_the_writers_tokenizer_do_not_reach_it() -> None:
    writing = Writing()
    shelf = Shelf(passage(1, text="before <stop> after"))
    whole = await answer(RagModel(shelf, writing, PLACE, 0.3), asking())
    assert "<stop>" not in str(writing.requests[0].messages[1].content)
    assert whole.citations is not None
    assert whole.citations[0].quote == "before <stop> after"


@pytest.mark.parametrize("changes", [{"tools": ({"type": "function"},)}, {"raw": True}])
async def test_it_offers_no_tools(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="tools"):
        await answer(RagModel(Shelf(passage(1)), Writing(), PLACE, 0.3), asking(**changes))


async def test_a_writer_that_fails_at_once_fails_before_the_first_delta() -> None:
    writing = Writing(error=ModelUnavailable("loading"))
    stream = RagModel(Shelf(passage(1)), writing, PLACE, 0.3).stream(asking())
    with pytest.raises(ModelUnavailable):
        await anext(stream)
    assert writing.open == 0


async def test_a_question_that_is_too_long_to_search_for_is_searched_for_by_its_end() -> None:
    class Narrow(Shelf):
        async def search(self, tenant: str, collection: str, text: str, **more: Any) -> list[Passage]:
            if len(text) > 150:
                raise InvalidValue("too long", field="query")
            return await super().search(tenant, collection, text, **more)

    shelf, writing = Narrow(passage(1)), Writing()
    question = "word " * 100 + "What is it?"
    await answer(RagModel(shelf, writing, PLACE, 0.3), asking(question))
    assert question.endswith(shelf.asked[0][2])
    assert str(writing.requests[0].messages[1].content).endswith(f"Question: {question}")


async def test_closing_the_answer_ends_the_writers_work() -> None:
    writing = Writing()
    stream = RagModel(Shelf(passage(1)), writing, PLACE, 0.3).stream(asking())
    await anext(stream)
    assert writing.open == 1
    await stream.aclose()
    assert writing.open == 0


async def test_a_name_says_which_collection() -> None:
    shelf = Shelf(passage(1))
    models = RagModels(shelf, Writing(), 0.3)
    await answer(models, asking(model="rag/handbook"))
    await answer(models, asking(model="rag/shared/handbook"))
    assert [asked[:2] for asked in shelf.asked] == [("alice", "handbook"), ("shared", "handbook")]


@pytest.mark.parametrize(
    "name", ["", "rag", "rag/", "handbook", "rag/A", "rag/a/b", "rag/shared/", "rag/../x", "rag/x\n"]
)
def test_other_names_are_no_collections(name: str) -> None:
    with pytest.raises(NotFound) as caught:
        place_of(name)
    assert caught.value.field == "model"


def test_names_of_places_cannot_collide() -> None:
    assert Place("shared").model == "rag/shared"
    assert place_of("rag/shared") == Place("shared")
    assert place_of("rag/shared/x") == Place("x", shared=True)


def test_a_collection_is_as_ready_as_the_library_and_the_writer() -> None:
    assert RagModels(Shelf(), Writing(), 0.3).readiness() == Readiness("rag/*", "ready", "writer writes: there")
    assert RagModel(Shelf(), Writing(), PLACE, 0.3).readiness().name == "rag/handbook"


def test_nobodys_own_tenant_is_what_everybody_shares() -> None:
    with pytest.raises(NotFound):
        own_tenant(Caller("shared"))


class SupportingShelf(Shelf):
    """A library whose passages have the supporting sentences that the test names."""

    def __init__(self, found: list[Support | None], *passages: Passage) -> None:
        super().__init__(*passages)
        self.found = found

    async def supports(self, answer: str, passages: Sequence[Passage]) -> list[Support | None]:
        return self.found[: len(passages)]


class SmallWriting(Writing):
    """A Writer of so many parameters."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.parameters = parameters

    def readiness(self) -> Readiness:
        return Readiness("writer", "ready", "there", {"parameters": self.parameters})


async def test_a_model_that_is_too_small_to_write_is_not_asked_and_the_sentence_is_the_answer() -> None:
    one, two = passage(1), passage(2)
    shelf = SupportingShelf([Support(one.start, one.start + 4, 0.8), Support(two.start, two.end, 0.5)], one, two)
    writing = SmallWriting(135_000_000)
    whole = await answer(RagModel(shelf, writing, PLACE, 0.3, quote_below=1_000_000_000), asking())
    assert whole.text == f"{one.text[:4].strip()} [1]"
    # what the answer does not quote supports nothing of it
    supports = [(citation.number, citation.support) for citation in whole.citations or ()]
    assert supports == [(1, (one.start, one.start + 4)), (2, None)]
    assert writing.requests == []


async def test_where_no_sentence_stands_out_the_best_passage_is_the_answer() -> None:
    one = passage(1)
    whole = await answer(RagModel(SupportingShelf([None], one), SmallWriting(1), PLACE, 0.3, quote_below=2), asking())
    assert whole.text == f"{one.text.strip()} [1]"


@pytest.mark.parametrize(("parameters", "below", "writer"), [(2_000, 1_000, None), (10, 0, None), (10, 1_000, "named")])
async def test_a_large_model_a_named_one_or_the_setting_zero_writes(
    parameters: int, below: int, writer: str | None
) -> None:
    writing = SmallWriting(parameters)
    rag = RagModel(SupportingShelf([None], passage(1)), writing, PLACE, 0.3, Asking(writer=writer), below)
    assert (await answer(rag, asking())).text == "yes"
    assert len(writing.requests) == 1
