"""An HTTP proxy for tests: forwards requests in absolute form, opens tunnels for CONNECT, and counts both."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

HEAD_END = b"\r\n\r\n"


@dataclass(slots=True)
class Proxy:
    """``seen`` holds the head of every request as it came. ``reply`` is sent instead of asking anyone.

    ``names`` says where a host that nobody else resolves leads.
    """

    url: str = ""
    reply: bytes = b""
    names: Mapping[str, int] = field(default_factory=dict)
    seen: list[bytes] = field(default_factory=list)

    def requests(self) -> list[tuple[str, str]]:
        """Method and target of each request."""
        return [(words[0], words[1]) for head in self.seen if (words := head.decode("latin-1").split(" ", 2))]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(HEAD_END)
            self.seen.append(head)
            if self.reply:
                writer.write(self.reply)
                await writer.drain()
            else:
                await self._forward(head, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the test is over, or its client went away, as some tests want it to
        finally:
            writer.close()

    async def _forward(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, rest = head.split(b" ", 2)
        authority, _, path = target.partition(b"://")[2].partition(b"/")
        host, _, port = (target if method == b"CONNECT" else authority).decode().rpartition(":")
        far = await asyncio.open_connection(
            "127.0.0.1" if host in self.names else host.strip("[]"), self.names.get(host, int(port))
        )
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            far[1].write(b" ".join((method, b"/" + path, rest)))
        try:
            await asyncio.gather(_pump(reader, far[1]), _pump(far[0], writer))
        finally:
            far[1].close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()


@contextmanager
def proxy(reply: bytes = b"", names: Mapping[str, int] | None = None) -> Iterator[Proxy]:
    """A proxy on a loop of its own, for the length of the block."""
    running = Proxy(reply=reply, names=names or {})
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def stop() -> None:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # closed transports leave the loop in its next turns

    try:
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(running.serve, "127.0.0.1", 0), loop).result(60)
        running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield running
        asyncio.run_coroutine_threadsafe(stop(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
