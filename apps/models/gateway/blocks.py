"""An upstream's event stream, cut into blocks of whole events, judged without parsing what is well.

A block is forwarded byte for byte. Only two things are looked for in it: the end of the stream, and an error that
came with status 200. A cut never leaves half an event with the client.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterable

from apps.core.errors import UpstreamError

# a JSON key: inside a string of a model's text the quotes would be escaped
ERROR_KEY = re.compile(rb'"error"\s*:\s*[{"\[]')
DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")


async def whole_events(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Blocks of one or more whole events, up to and with ``[DONE]``.

    Raises UpstreamError where an event reports an error, where the stream ends without ``[DONE]``, or where it was
    no event stream; events before the fault are still delivered.
    """
    pending = b""
    async for chunk in chunks:
        chunk = pending + chunk if pending else chunk
        end = _end_of_last_event(chunk)
        block, pending = chunk[:end], chunk[end:]
        if not block:
            continue
        fault = ERROR_KEY.search(block)
        if fault:
            sound = block[: _end_of_last_event(block[: fault.start()])]
            if sound:
                yield sound
            raise UpstreamError("The upstream reported an error in its answer")
        yield block
        if DONE.search(block):
            return
    raise UpstreamError("The upstream's answer was cut off before its end")


def _end_of_last_event(data: bytes) -> int:
    """The index behind the last blank line; 0 where there is none."""
    end = data.rfind(b"\n\n") + 2
    if b"\r" in data:
        end = max(end, data.rfind(b"\r\n\r\n") + 4, data.rfind(b"\r\r") + 2)
    return end if end > 4 or data[:end].endswith((b"\n\n", b"\r\r", b"\r\n\r\n")) else 0
