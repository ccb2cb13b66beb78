"""A resolver and a wire that fetching is tested with: no name is looked up, no address is connected to."""

from collections.abc import AsyncIterator, Callable

import httpx2

PUBLIC = "93.184.216.34"
# what the test's own resolver says of a name
NAMES = {
    "loopback.example": ["127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "zone.example": ["fe80::1%lo"],
    "azure.example": ["168.63.129.16"],
    "ibm.example": [PUBLIC, "161.26.0.10"],
    "nothing.example": [],
}


class Resolver:
    """Answers from a table; ``rebinds.example`` is public once, and this machine from then on."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host == "rebinds.example":
            return [PUBLIC] if self.asked.count(host) == 1 else ["127.0.0.1"]
        if host in NAMES:
            return NAMES[host]
        if host.endswith("localhost"):
            return ["127.0.0.1"]
        return [PUBLIC]


class Wire(httpx2.AsyncBaseTransport):
    """Notes which address is connected to; the pages are the test's own."""

    def __init__(self, answer: Callable[[httpx2.Request], httpx2.Response]) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = answer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._answer(request)


async def once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def page(text: str, kind: str = "text/plain") -> httpx2.Response:
    """As it comes off a wire: not read yet."""
    return httpx2.Response(200, content=once(text.encode()), headers={"Content-Type": kind})
