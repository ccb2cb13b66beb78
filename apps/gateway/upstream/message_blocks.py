"""Anthropic's messages from an upstream: where their streams begin and end, and the usage that passes by."""

import re

from apps.core.calls import CallRecord, Usage
from apps.gateway.upstream.response_blocks import NAMED, ResponseBlocks

INPUT = re.compile(rb'"input_tokens"\s*:\s*(\d{1,12})')
WRITTEN = re.compile(rb'"cache_creation_input_tokens"\s*:\s*(\d{1,12})')
CACHED = re.compile(rb'"cache_read_input_tokens"\s*:\s*(\d{1,12})')
OUTPUT = re.compile(rb'"output_tokens"\s*:\s*(\d{1,12})')


class MessageBlocks(ResponseBlocks):
    """As ResponseBlocks: a stream ends with ``message_stop``, and begins to answer behind ``message_start``."""

    end = re.compile(NAMED + rb"message_stop\b")
    failed = re.compile(rb"(?!)")
    prelude = re.compile(NAMED + rb"(?:message_start|ping)\b")


class MessageUsage:
    """Notes the usage of a message on the call's record: input at its beginning, output at its end."""

    def __init__(self, record: CallRecord | None) -> None:
        self._record = record
        self._known = {INPUT: 0, WRITTEN: 0, CACHED: 0, OUTPUT: 0}

    def read(self, block: bytes) -> bytes:
        """The block as it is."""
        if self._record is not None and block.find(b'"usage"') >= 0:
            for name in self._known:
                if found := name.findall(block):
                    self._known[name] = int(found[-1])
            prompt = self._known[INPUT] + self._known[WRITTEN] + self._known[CACHED]
            self._record.usage = Usage(prompt, self._known[OUTPUT], self._known[CACHED])
        return block
