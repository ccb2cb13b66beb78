"""The pytest plugin that vLLM's entrypoint tests run with: a `tests.utils` of ours, and nothing behind `vllm`.

Their tests start a server with flags and ask it over HTTP; here each asks the one service, behind a proxy that changes
names. What calls into vLLM's own modules is about its internals and is skipped when it does.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Sequence
from typing import Any

import openai
import pytest
import requests

from eval.peers.left_out import VLLM, leave_out

SECONDS = 600
# flags that change what a caller sees; others are about speed, memory, or the choice of a parser
ABOUT = {
    "--api-key", "--root-path", "--chat-template", "--enable-prompt-embeds",
    "--return-tokens-as-token-ids", "--enable-force-include-usage", "--enable-per-request-metrics-only",
    "--logprobs-mode", "--trust-request-chat-template", "--mm-processor-kwargs",
}  # fmt: skip


class Internal:
    """Something of vLLM's own. It may be imported and named; a test that calls it is left out."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: object, **more: object) -> "Internal":
        if "PYTEST_CURRENT_TEST" in os.environ:
            pytest.skip(f"about their internals: {self.name}")
        return self

    def __getattr__(self, name: str) -> "Internal":
        if name.startswith("__"):
            raise AttributeError(name)
        return Internal(f"{self.name}.{name}")

    def __mro_entries__(self, bases: object) -> tuple[type, ...]:
        return ()

    def __or__(self, other: object) -> "Internal":
        return self

    __ror__ = __or__

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Any:
        return iter(())

    def __getitem__(self, item: object) -> "Internal":
        return self


# what their files import and ask nothing of over HTTP; where it is installed, it is left alone
IMPORTED = ("torch", "pybase64", "openai_harmony", "gpt_oss")
STOOD_IN_FOR = ("vllm", *(name for name in IMPORTED if importlib.util.find_spec(name) is None))


class Internals(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of vLLM, and nothing in it."""

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in STOOD_IN_FOR:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__path__ = []

        def missing(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return OURS.get(name) or Internal(f"{spec.name}.{name}")

        module.__getattr__ = missing  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing in it."""


class Tokenizer:
    """The service's tokenizer, over its route."""

    def __init__(self, *args: object, **more: object) -> None:
        self._url = os.environ["PEER_PROXY"]

    def encode(self, text: str, **more: object) -> list[int]:
        tokens: list[int] = requests.post(
            f"{self._url}/tokenize", json={"prompt": text, "add_special_tokens": False}, timeout=SECONDS
        ).json()["tokens"]
        return tokens

    def decode(self, tokens: Sequence[int], **more: object) -> str:
        answer = requests.post(f"{self._url}/detokenize", json={"tokens": list(tokens)}, timeout=SECONDS)
        return str(answer.json()["prompt"])

    def __getattr__(self, name: str) -> Any:
        pytest.skip(f"about their internals: a tokenizer's {name}")


class Hub:
    """The hub of models, from which adapters would be fetched: their names lead to the one model here."""

    def snapshot_download(self, **more: object) -> str:
        return "adapter"


class ModelConfig:
    """What their tests ask of a model's configuration, as the service tells it."""

    def __init__(self, **more: object) -> None:
        self._url = os.environ["PEER_PROXY"]

    def get_vocab_size(self) -> int:
        refused = requests.post(f"{self._url}/detokenize", json={"tokens": [2**31 - 1]}, timeout=SECONDS).json()
        return int(refused["error"]["details"]["max"]) + 1


OURS = {"get_tokenizer": Tokenizer, "hf_api": Hub, "ModelConfig": ModelConfig}


class RemoteOpenAIServer:
    """The one service, by the interface of their class."""

    DUMMY_API_KEY = "unused"

    def __init__(self, model: str, vllm_serve_args: Sequence[str] = (), **more: object) -> None:
        flags = sorted({str(flag).partition("=")[0] for flag in vllm_serve_args} & ABOUT)
        if flags:
            pytest.skip(f"about their flags: {', '.join(flags)}")
        self.url_root = os.environ["PEER_PROXY"]
        self._model = model

    def __enter__(self) -> "RemoteOpenAIServer":
        return self

    def __exit__(self, *args: object) -> None:
        """The service goes on."""

    def url_for(self, *parts: str) -> str:
        return "/".join([self.url_root, *parts])

    def get_client(self, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(**self._options(more))

    def get_async_client(self, **more: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self._options(more))

    def _options(self, more: dict[str, Any]) -> dict[str, Any]:
        own = {"base_url": self.url_for("v1"), "api_key": self.DUMMY_API_KEY, "max_retries": 0, "timeout": SECONDS}
        return {**own, "default_headers": {"X-Answer-Model": self._model}, **more}


def pytest_configure(config: pytest.Config) -> None:
    for marker in ("asyncio: of theirs", "cpu_model: of theirs", "skip_global_cleanup: of theirs"):
        config.addinivalue_line("markers", marker)


def _named(module: str, name: str) -> Internal:
    if name.startswith("__"):
        raise AttributeError(name)
    return Internal(f"{module}.{name}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        asks = any("client" in name or "server" in name for name in getattr(item, "fixturenames", ()))
        if not asks:
            item.add_marker(pytest.mark.skip(reason="about their internals: it asks no server"))
        leave_out(item, f"{item.path.name}::{item.name}", VLLM)


# their conftests are read before any hook is called
sys.meta_path.insert(0, Internals())
_utils = types.ModuleType("tests.utils")
vars(_utils).update(RemoteOpenAIServer=RemoteOpenAIServer, ROCM_EXTRA_ARGS=[], ROCM_ENV_OVERRIDES={})
_utils.__getattr__ = lambda name: _named("tests.utils", name)  # type: ignore[method-assign]
sys.modules["tests.utils"] = _utils
