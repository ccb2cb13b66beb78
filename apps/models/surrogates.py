"""Characters that an upstream cut in two: JSON escapes carry UTF-16, so an emoji's halves may come in two deltas."""


class SurrogateJoiner:
    """Holds back a leading half until its other half comes; a half without one becomes U+FFFD."""

    def __init__(self) -> None:
        self._held = ""

    def join(self, text: str) -> str:
        """The text that is whole so far; pure Unicode, so that it always encodes."""
        if not self._held and text.isascii():
            return text
        text = self._held + text
        self._held = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return _whole(text[:-1] if self._held else text)

    def flush(self) -> str:
        held, self._held = self._held, ""
        return _whole(held)


def _whole(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
