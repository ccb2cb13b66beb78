"""The base of wrappers hands on all that it is asked, and revisions say nothing of what they were made from."""

from collections.abc import AsyncGenerator

from apps.core.deltas import Delta, collect
from apps.core.messages import ChatRequest, user_message
from apps.core.ports import STATES, Observation, Readiness, WrapperModel, digest_of, revision_of

REQUEST = ChatRequest(user_message("hi"))


class Plain:
    """A ChatModel without a revision, which notes when it is begun and ended."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        yield Delta("a", finish_reason="stop", model=request.model)

    def readiness(self) -> Readiness:
        return Readiness("plain", "loading", "it loads", retry_after=2.0)

    async def start(self) -> None:
        self.noted.append("start")

    async def aclose(self) -> None:
        self.noted.append("aclose")


class OfRevision(Plain):
    def revision(self, request: ChatRequest) -> str | None:
        return f"revision of {request.model}"


async def test_a_wrapper_hands_everything_on() -> None:
    inner = Plain()
    model = WrapperModel(inner)
    await model.start()
    answer = await collect(model.stream(ChatRequest(user_message("hi"), model="m")))
    await model.aclose()
    assert (answer.text, answer.model) == ("a", "m")
    assert model.readiness() == Readiness("plain", "loading", "it loads", retry_after=2.0)
    assert inner.noted == ["start", "aclose"]


def test_a_wrapper_has_its_models_revision_or_none() -> None:
    request = ChatRequest(user_message("hi"), model="m")
    assert WrapperModel(OfRevision()).revision(request) == revision_of(OfRevision(), request) == "revision of m"
    assert WrapperModel(Plain()).revision(request) is None


def test_a_digest_depends_on_each_word_and_shows_none() -> None:
    assert digest_of("a", 1) == digest_of("a", 1)
    assert len({digest_of("a", 1), digest_of("a", 2), digest_of("b", 1), digest_of("a1"), digest_of("a\n1")}) == 5
    assert len(digest_of("http://host/folder")) == 64
    assert set(digest_of("http://host/folder")) <= set("0123456789abcdef")


def test_states_stand_in_their_order_the_best_first() -> None:
    assert STATES == ("ready", "unknown", "loading", "failed", "not_configured")


def test_a_number_goes_up_and_down_unless_it_is_said_to_count() -> None:
    seen = Observation("genai_queue_depth", "Calls that wait", 3)
    assert (seen.kind, seen.labels) == ("gauge", {})
