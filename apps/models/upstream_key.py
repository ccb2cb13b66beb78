"""The key that an upstream needs: whether it has one to be called with, and what an operator has to do without it."""

from apps.core.errors import ModelUnavailable

KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_URL = "https://api.openai.com/v1"
RETRY_SECONDS = 60.0


def needs_key(base_url: str) -> bool:
    """Whether an upstream is known to answer nobody without a key; of others an operator decides."""
    return base_url.rstrip("/") == OPENAI_URL


def missing_key(base_url: str, key: str, variable: str) -> str:
    """What an operator has to do before the upstream can be called; empty where nothing is missing.

    ``variable`` names the key; empty where the upstream needs none.
    """
    if key or not variable:
        return ""
    if needs_key(base_url):
        return f"set {variable}, or OPENAI_BASE_URL for an upstream that needs no key"
    return f"set {variable}"


def not_configured(missing: str) -> ModelUnavailable:
    """The error of a call to an upstream whose key is missing."""
    return ModelUnavailable(f"The model is not configured: {missing}", retry_after=RETRY_SECONDS)
