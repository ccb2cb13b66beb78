"""The OpenAPI document as a test reads it."""

from typing import Any

RESPONSES = "#/components/responses/"


def with_whole_responses(page: dict[str, Any]) -> dict[str, Any]:
    """The page with each reference to a shared response replaced by what it leads to."""
    shared = page["components"].get("responses", {})
    for item in page["paths"].values():
        for operation in item.values():
            for status, response in operation["responses"].items():
                if "$ref" in response:
                    operation["responses"][status] = shared[response["$ref"].removeprefix(RESPONSES)]
    return page
