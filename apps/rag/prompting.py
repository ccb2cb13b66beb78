"""The prompt of an answer from documents, made to fit the model's window; what is said in it: see quoting.py."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from apps.core.errors import InvalidValue
from apps.core.messages import ChatRequest, Message
from apps.core.ports import ContextWindow
from apps.rag.quoting import instructions, mark_for, quoted
from apps.rag.records import Passage


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request for the model that writes, and the passages that are in it."""

    request: ChatRequest
    passages: Sequence[Passage]


def question_of(request: ChatRequest) -> str:
    """The text of the last user message. Raises InvalidValue where there is none."""
    text = _text(request.messages[_question_at(request.messages)])
    if not text.strip():
        raise InvalidValue("The last user message must have text to search for", field="messages")
    return text


async def fitted(request: ChatRequest, passages: Sequence[Passage], window: ContextWindow) -> Prompt:
    """The prompt with as many of the passages, best first, as leave room for the whole answer.

    Raises InvalidValue where not even one does: nothing is ever cut.
    """
    answer = request.max_tokens or 0
    mark = mark_for(passages)
    for kept in range(len(passages), 0, -1):
        messages = _messages(request.messages, passages[:kept], mark, window)
        tokens = await window.count(messages)
        if tokens + answer <= window.tokens:
            return Prompt(replace(request, messages=messages), passages[:kept])
    raise InvalidValue(
        f"The prompt's {tokens} tokens with one passage and max_tokens {answer} exceed the model's context of "
        f"{window.tokens} tokens",
        field="max_tokens",
        details={"prompt_tokens": tokens, "max_tokens": answer, "context_length": window.tokens},
    )


def _messages(
    messages: Sequence[Message], passages: Sequence[Passage], mark: str, window: ContextWindow
) -> tuple[Message, ...]:
    """Our instructions at the system's standing, the passages in the user's turn, right before the question."""
    at = _question_at(messages)
    before = f"{quoted(passages, mark, window.control)}\n\nQuestion: "
    asked = list(messages)
    asked[at] = replace(asked[at], content=_with_text_before(before, asked[at]))
    system = instructions(mark)
    if asked[0].role == "system":
        # one system message: many chat templates know no second
        asked[0] = replace(asked[0], content=_with_text_before(f"{system}\n\n", asked[0]))
        return tuple(asked)
    return (Message("system", system), *asked)


def _with_text_before(text: str, message: Message) -> str | list[dict[str, object]]:
    if isinstance(message.content, str):
        return text + message.content
    return [{"type": "text", "text": text}, *(dict(part) for part in message.content)]


def _question_at(messages: Sequence[Message]) -> int:
    for at in range(len(messages) - 1, -1, -1):
        if messages[at].role == "user":
            return at
    raise InvalidValue("There is no user message to search for", field="messages")


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(str(part.get("text", "")) for part in message.content if part.get("type") == "text")
