"""Whether the same call, made again, would be answered the same: read from its body, never from its answer."""

from collections.abc import Callable, Mapping
from typing import Any

from apps.models.gateway.wire import WireCall

# what these name lives outside the request, and changes
ELSEWHERE = ("web_search_options", "conversation", "previous_response_id", "prompt")
OWN_TOOLS = frozenset({"function", "custom"})


def is_deterministic(call: WireCall, greedy: Callable[[], bool]) -> bool:
    """Embeddings; else one choice, at temperature 0 or with a seed, of nothing but what the request holds.

    ``greedy`` is asked where it matters: whether whoever answers takes a temperature that is not given for 0.
    """
    if call.path == "/embeddings":
        return True
    body = call.body
    if body.get("n") not in (None, 1) or _looks_elsewhere(call):
        return False
    temperature = body.get("temperature")
    if is_number(body.get("seed")) or (is_number(temperature) and temperature == 0):
        return True
    return temperature is None and greedy()


def is_whole_when_answered(call: WireCall) -> bool:
    """A response in the background is answered before there is an answer."""
    return not call.body.get("background")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _looks_elsewhere(call: WireCall) -> bool:
    body, tools = call.body, call.body.get("tools")
    # in the older completions the prompt is the text itself
    names = [name for name in ELSEWHERE if name != "prompt" or call.path == "/responses"]
    if any(body.get(name) is not None for name in names):
        return True
    return isinstance(tools, list) and any(isinstance(t, Mapping) and t.get("type") not in OWN_TOOLS for t in tools)
