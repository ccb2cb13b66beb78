"""OpenVINO GenAI's continuous batching behind the part of OpenAI's chat API that the benchmark asks.

In the peers' environment: python openvino_server.py MODEL.gguf SLOTS THREADS. Prints its address and version when it
answers, and ends with its standard input. Each call's stream ends with its connection.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from itertools import count

import openvino_genai as genai

CONTEXT, BLOCK = 2048, 32
Deliver = Callable[["list[int] | None"], None]


class Batcher(threading.Thread):
    """Steps the pipeline while there are calls. ``deliver`` gets tokens and then None, or [] where refused."""

    def __init__(self, pipeline):
        super().__init__(daemon=True)
        self._pipeline = pipeline
        self._numbers = count()
        self._waiting = []
        self._changed = threading.Condition()
        self.start()

    def add(self, tokens, config, deliver: Deliver):
        with self._changed:
            self._waiting.append((tokens, config, deliver))
            self._changed.notify()

    def run(self):
        running = []
        while True:
            with self._changed:
                while not (self._waiting or running):
                    self._changed.wait()
                new, self._waiting = self._waiting, []
            for tokens, config, deliver in new:
                try:
                    running.append((self._pipeline.add_request(next(self._numbers), tokens, config), deliver))
                except RuntimeError as error:
                    # what it does not take: the stream ends without its last line
                    print(error, file=sys.stderr)
                    deliver([])
            self._pipeline.step()
            for one in list(running):
                handle, deliver = one
                while handle.can_read():
                    for output in handle.read().values():
                        if output.generated_ids:
                            deliver(list(output.generated_ids))
                if handle.get_status() != genai.GenerationStatus.RUNNING and not handle.can_read():
                    deliver(None)
                    running.remove(one)


class Service:
    def __init__(self, model, slots, threads):
        config = genai.SchedulerConfig()
        config.max_num_seqs = slots
        config.num_kv_blocks = slots * CONTEXT // BLOCK
        config.dynamic_split_fuse = True
        config.enable_prefix_caching = True
        pipeline = genai.ContinuousBatchingPipeline(model, config, "CPU", {"INFERENCE_NUM_THREADS": threads})
        self._tokenizer = pipeline.get_tokenizer()
        self._batcher = Batcher(pipeline)

    async def answer(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.split("content-length:")[1].split("\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            await self._stream(body, writer)
        finally:
            writer.close()

    async def _stream(self, body, writer):
        text = self._tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True)
        tokens = self._tokenizer.encode(text, add_special_tokens=False).input_ids
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()
        self._batcher.add(tokens, config_of(body), lambda ids: loop.call_soon_threadsafe(queue.put_nowait, ids))
        said = 0
        while (ids := await queue.get()) is not None:
            if not ids:
                return
            said += len(ids)
            delta = {"choices": [{"index": 0, "delta": {"content": self._tokenizer.decode(ids)}}]}
            writer.write(f"data: {json.dumps(delta)}\n\n".encode())
            await writer.drain()
        usage = {"prompt_tokens": tokens.shape[1], "completion_tokens": said}
        writer.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())
        await writer.drain()


def config_of(body):
    config = genai.GenerationConfig()
    config.max_new_tokens = body["max_tokens"]
    config.do_sample = False
    config.ignore_eos = body.get("ignore_eos", False)
    if form := body.get("response_format"):
        config.structured_output_config = genai.StructuredOutputConfig(
            json_schema=json.dumps(form["json_schema"]["schema"])
        )
    return config


async def main():
    model, slots, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    service = Service(model, slots, threads)
    server = await asyncio.start_server(service.answer, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", genai.get_version(), sep="\t", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
