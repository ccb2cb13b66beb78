"""How an upstream is asked: its key in the header of its kind, and what no caller may read in its words."""

from urllib.parse import urlsplit

from apps.gateway.routing.config import ProviderConfig

ANTHROPIC_VERSION = "2023-06-01"
FIXED = {"User-Agent": "genai-project", "Accept-Encoding": "identity"}


def access_headers(provider: ProviderConfig, api_key: str) -> dict[str, str]:
    """The headers of every call, the key among them where there is one."""
    headers = dict(FIXED)
    if provider.kind == "anthropic":
        headers["anthropic-version"] = ANTHROPIC_VERSION
        return {**headers, "x-api-key": api_key} if api_key else headers
    if api_key and provider.kind == "azure":
        headers["api-key"] = api_key
    elif api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def hidden_words(provider: ProviderConfig, api_key: str) -> tuple[str, ...]:
    """What no caller may read in an upstream's own words: its host, its address, its key."""
    base = provider.base_url.rstrip("/")
    return tuple(filter(None, (urlsplit(provider.base_url).hostname, base, api_key)))
