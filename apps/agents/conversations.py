"""Which conversations an agent can answer."""

from collections.abc import Sequence

from apps.core.errors import InvalidValue
from apps.core.messages import Message


def check_messages(messages: Sequence[Message]) -> None:
    """Raise InvalidValue for a conversation that an agent cannot answer."""
    if not any(message.role == "user" for message in messages) or messages[-1].role != "user":
        raise InvalidValue("The conversation must end with a message of the user", field="messages")
    for i, message in enumerate(messages):
        if message.role == "tool" or message.tool_calls:
            raise InvalidValue("An agent calls its own tools; results of others are not taken", field=f"messages.{i}")
        if not isinstance(message.content, str):
            raise InvalidValue("An agent takes text only", field=f"messages.{i}.content")
