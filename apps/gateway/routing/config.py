"""What a routing file can say: providers, and the model names that callers use."""

import re
from collections.abc import Iterable
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from apps.core.calls import BOUNDARIES, Boundary, Price
from apps.core.config_file import parsed, read_config, validated, whole

Strategy = Literal["ordered", "weighted", "least_busy", "lowest_latency", "cheapest"]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
ANY_MODEL = "*"
DEFAULT_SILENCE = 20.0
Name = Annotated[str, Field(min_length=1, max_length=200)]


class GatewayConfigError(Exception):
    """The routing file is wrong; the message lists every fault on a line of its own."""


class _Strict(BaseModel):
    # built when a file is read: without one nothing here needs checking, and building takes a tenth of a start
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class TimeoutsConfig(_Strict):
    """Seconds. ``total`` bounds all; a call that is not streamed is silent until it is answered, so nothing else does.

    A streamed call has its first token within ``first_token``: reasoning models need a longer one. Until then no
    ``silence`` without a byte is longer than that, afterwards none than ``between_tokens``; comments that keep a
    connection alive are bytes.
    """

    connect: Seconds = 10
    first_token: Seconds = 120
    silence: Seconds | None = Field(
        None, description="Before the first token; left out: first_token where that is given, else 20"
    )
    between_tokens: Seconds = 20
    write: Seconds = Field(10, description="In which nothing of a request leaves")
    total: Seconds = 600

    @cached_property
    def first_silence(self) -> float:
        """Seconds without a byte before the first token."""
        if self.silence is not None:
            return self.silence
        return self.first_token if "first_token" in self.model_fields_set else DEFAULT_SILENCE


# kinds that answer to all names that begin with theirs
PREFIXED = ("rag", "agent")


# the parts of OpenAI's API that are passed on as they are, each to one provider
Family = Literal[
    "audio", "images", "moderations", "files", "uploads", "batches", "responses", "conversations", "vector_stores",
    "fine_tuning", "videos", "containers", "evals", "realtime",
]  # fmt: skip
FAMILIES: tuple[Family, ...] = get_args(Family)


Address = Annotated[
    str, Field(pattern=r"^((https?|dns)://[^/\s?#]+/?|http\+unix://%2F[^/\s?#]+/?|list\+https?://[^\s?#]+)$")
]


# names that no public server has: of hosts files, of mDNS, of clusters and of networks of one's own
PRIVATE_NAMES = (".internal", ".local", ".lan", ".home.arpa", ".svc", ".localdomain")


# an IPv4 address as one number is one to most resolvers: 134744072 is 8.8.8.8
NUMBER = re.compile(r"0x[0-9a-f]+|[0-9]+")


def boundary_of(addresses: Iterable[str]) -> Boundary:
    """How far the furthest of these addresses is, by what stands there; nothing is resolved.

    A name with a dot is outside unless it ends as only private ones do.
    """
    return max((_boundary(address) for address in addresses), key=BOUNDARIES.index)


def _boundary(address: str) -> Boundary:
    parts = urlsplit(address)
    host = (parts.hostname or "").rstrip(".")
    if NUMBER.fullmatch(host):
        return "outside"
    if "unix" in parts.scheme or host == "localhost" or host.endswith(".localhost"):
        return "machine"
    try:
        ip = ip_address(host)
    except ValueError:
        return "network" if "." not in host or host.endswith(PRIVATE_NAMES) else "outside"
    return "machine" if ip.is_loopback else "outside" if ip.is_global else "network"


class ProviderConfig(_Strict):
    """Where targets live. ``azure`` puts the model into the path and the key into ``api-key``;
    ``anthropic`` speaks Anthropic's messages, which chats are translated into.

    ``local`` and ``embedder`` are models of this process: they need no address and answer to their own names. So does
    ``rag``, to the name of every collection of documents (``rag/<collection>``), and ``agent`` (``agent/<name>``).

    ``replicas`` are processes of this service that hold models (``genai serve --role model``), at ``addresses``; a
    target's model ``local`` is whatever local model they have.
    """

    kind: Literal["openai", "azure", "anthropic", "local", "embedder", "rag", "agent", "replicas"] = "openai"
    addresses: list[Address] = Field(
        default_factory=list,
        description="http://host:port, http+unix://%2Fpath, dns://name:port, list+http://host:port/path",
    )
    responses: Literal["auto", "native", "chat"] = Field(
        "auto",
        description="/responses: passed on (native), made from chat completions (chat), or the second where the "
        "upstream answers the first with 404 (auto)",
    )
    base_url: str = Field("", pattern=r"^(https?://[^/\s]+.*)?$")
    api_key_env: str = Field(
        "",
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
        description="Name of the environment variable that holds the key; never the key",
    )
    api_version: str = ""
    timeouts: TimeoutsConfig = TimeoutsConfig()
    max_concurrency: int = Field(256, ge=1)
    queue_size: int = Field(256, ge=0)
    queue_timeout: Seconds = 30
    slow_after: Seconds = Field(15, description="A first token later than this counts as a failure for the breaker")
    stream_usage: bool = Field(True, description="Ask for the usage of streams whose callers did not (stream_options)")
    prices: dict[str, Price] = Field(default_factory=dict, description="By model; * is for those not listed")

    @cached_property
    def in_process(self) -> bool:
        return self.kind in ("local", "embedder", "rag", "agent")

    @cached_property
    def ours(self) -> bool:
        """Whether its models are this service's own, in this process or another: they cost nothing by themselves."""
        return self.in_process or self.kind == "replicas"

    @cached_property
    def prefix(self) -> str:
        """The prefix of the names that are this provider's, whichever provider is the default."""
        return f"{self.kind}/" if self.kind in PREFIXED else ""

    @model_validator(mode="after")
    def _has_an_address(self) -> "ProviderConfig":
        if self.kind == "replicas":
            if not self.addresses or self.base_url:
                raise ValueError("replicas have addresses, and no base_url")
        elif self.addresses:
            raise ValueError("addresses are for the kind replicas")
        if not self.ours and not self.base_url:
            raise ValueError("base_url is required")
        if self.kind == "azure" and not self.api_version:
            raise ValueError("api_version is required")
        return self


class TargetConfig(_Strict):
    """One model of one provider, and what it can do; left out, it is taken to do everything."""

    provider: Name
    model: Name
    weight: float = Field(1, gt=0)
    context: int | None = Field(None, ge=1, description="Context length in tokens")
    tools: bool = True
    images: bool = True
    price: Price | None = None


class ModelConfig(_Strict):
    """A name that callers use: where it leads, in order, and which other names stand in when all of that fails."""

    strategy: Strategy = "ordered"
    targets: list[TargetConfig] = Field(min_length=1)
    fallbacks: list[Name] = Field(default_factory=list)


class GatewayConfig(_Strict):
    """``default_provider`` takes every name that is not listed, as it is; without it such a name is NOT_FOUND."""

    providers: dict[Name, ProviderConfig] = Field(min_length=1)
    models: dict[Name, ModelConfig] = Field(default_factory=dict)
    default_provider: Name | None = None
    passage: dict[Family | Literal["*"], Name] = Field(
        default_factory=dict,
        description="Who takes /v1/audio, /v1/files and the like: a provider for each; * is for those not listed",
    )


def load_gateway_config(path: Path) -> GatewayConfig:
    """Read and check the file, whole. Raises GatewayConfigError; values are not repeated, they may be secrets."""
    return _checked(read_config(path, GatewayConfigError), path)


def gateway_config_of(text: str, path: Path) -> GatewayConfig:
    """Check the text of a file; ``path`` is what it is called. Raises GatewayConfigError as reading one does."""
    return _checked(parsed(text, path, GatewayConfigError), path)


def _checked(content: Any, path: Path) -> GatewayConfig:
    config, faults = validated(content, GatewayConfig)
    return whole(path, config, faults + _dangling_names(content), GatewayConfigError)


def _dangling_names(content: Any) -> list[str]:
    """Names that lead nowhere; read from the file as it is, so that they are reported beside every other fault."""
    file = _mapping(content)
    providers, models = _mapping(file.get("providers")), _mapping(file.get("models"))
    faults = []
    for name, model in models.items():
        for i, target in enumerate(_sequence(_mapping(model).get("targets"))):
            provider = _mapping(target).get("provider")
            if isinstance(provider, str) and provider not in providers:
                faults.append(f"models.{name}.targets.{i}.provider: no provider is named {provider}")
        for i, other in enumerate(_sequence(_mapping(model).get("fallbacks"))):
            if isinstance(other, str) and other not in models:
                faults.append(f"models.{name}.fallbacks.{i}: no model is named {other}")
    for family, name in _mapping(file.get("passage")).items():
        if isinstance(name, str) and name not in providers:
            faults.append(f"passage.{family}: no provider is named {name}")
        elif isinstance(name, str) and _mapping(providers.get(name)).get("kind", "openai") not in ("openai", "azure"):
            faults.append(f"passage.{family}: {name} does not speak OpenAI's API")
    default = file.get("default_provider")
    if isinstance(default, str) and default not in providers:
        faults.append(f"default_provider: no provider is named {default}")
    return faults


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
