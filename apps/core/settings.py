"""The settings: one field each, read from the environment or a `.env` file in the working folder.

`.env.example` documents the same names (a test compares them); the field's description is its documentation.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from apps.core.setting_types import (
    Algorithms,
    DatabaseUrl,
    FleetSecret,
    HeaderValue,
    HttpUrl,
    HttpUrlOrNone,
    IssuerUrl,
    Listed,
    LocalUrl,
    Origins,
    Rate,
    Seconds,
    SecretKey,
    WithIssuer,
)


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names it and says what would be right."""


class Settings(BaseSettings):
    """Everything an operator can turn. Tests make their own; nothing reads a global."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)

    # first, since what others must be depends on it
    env: Literal["development", "production", "test"] = Field(
        "development", description="development opens CORS to all origins, and needs no key while there is none"
    )
    api_host: str = Field("0.0.0.0", description="Address to listen on")  # noqa: S104 - the seed's default
    api_port: int = Field(8000, ge=0, le=65535, description="Port to listen on")
    api_uds: Path | None = Field(None, description="Unix socket to listen on in place of API_HOST and API_PORT")
    api_fd: int | None = Field(None, ge=3, description="Open listening socket to take over, as its file descriptor")
    api_workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes of the API; with more than one, the local model and the encoders are in another",
    )
    api_peers: str = Field(
        "", pattern=r"^(|\d{1,2}@/.+)$", description="Which of the workers this process is, and where the others are"
    )
    serve_role: Literal["all", "model"] = Field(
        "all", description="all; or model: the local model, embeddings and reranking alone, for gateways of a fleet"
    )
    fleet_secret: FleetSecret = Field(SecretStr(""), description="What the processes of a fleet know each other by")
    console: Literal["on", "off"] = Field("on", description="on: the page at / for browsers; off: JSON alone")
    debug: bool = Field(True, description="Tracebacks of crashes go to the log; answers never hold one")
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "info", description="debug, info, warning, error or critical"
    )

    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="json: an object a line; console: for people; auto: json where ENV is production"
    )
    log_prompts: bool = Field(False, description="Prompts and messages of exceptions go to the log and into traces")
    otel_exporter_otlp_endpoint: HttpUrlOrNone = Field(
        "", description="OpenTelemetry collector (OTLP over HTTP) for traces and metrics; empty: off"
    )

    openai_api_key: HeaderValue = Field(SecretStr(""), description="Key of the cloud model; empty turns it off")
    openai_base_url: HttpUrl = Field("https://api.openai.com/v1", description="Any OpenAI-compatible upstream")
    openai_price: str = Field(
        "",
        pattern=r"^(\d{1,6}(\.\d+)?/\d{1,6}(\.\d+)?)?$",
        description="US dollars for a million tokens of prompts/answers, as 0.15/0.60; a routing file has its own",
    )
    default_model: str = Field("gpt-4o-mini", min_length=1, description="Model of /generate")
    default_temperature: float = Field(0.0, ge=0, le=2, description="Temperature of /generate")
    default_max_tokens: int = Field(500, ge=1, le=16384, description="max_tokens of /generate")
    connect_timeout: Seconds = Field(10, description="Seconds to connect to the upstream")
    read_timeout: Seconds = Field(20, description="Seconds of silence from the upstream, between bytes")
    first_token_timeout: Seconds = Field(
        300, description="Seconds to the first token of a stream whose upstream keeps the connection alive meanwhile"
    )
    write_timeout: Seconds = Field(10, description="Seconds to send to the upstream")
    retry_attempts: int = Field(3, ge=1, le=10, description="Attempts in all, the first one included")
    retry_backoff: float = Field(1, ge=0, le=60, description="First wait in seconds; it doubles, up to 8")

    rate_limit_enabled: bool = Field(True, description="Limits a client address on every route below")
    rate_limit_generate: Rate = Field("10/minute", description="POST /generate")
    rate_limit_local: Rate = Field("20/minute", description="POST /local/generate")
    rate_limit_health: Rate = Field("30/minute", description="GET /health and /healthz")
    rate_limit_v1: Rate = Field("60/minute", description="All calls of /v1 together")
    rate_limit_rag: Rate = Field("60/minute", description="All calls of /rag together")
    rate_limit_auth: Rate = Field("30/minute", description="Keys of an address that are refused")
    rate_limit_storage: str = Field(
        "memory://",
        pattern=r"^(memory|redis|rediss|redis\+unix|redis\+cluster|file)://",
        description="memory://, redis://host:port, or file:///path that processes of one machine share",
    )
    max_prompt_chars: int = Field(1000, ge=1, le=1_000_000, description="Longest prompt in Unicode code points")
    max_body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body in bytes")
    passage_max_bytes: int = Field(
        104_857_600, ge=1024, description="Largest form in bytes that is passed on to an upstream: audio, images, files"
    )

    responses_ttl: int = Field(
        3600, ge=0, le=2_592_000, description="Seconds that a response of /v1/responses is kept for its tenant; 0: not"
    )

    max_head_bytes: int = Field(65_536, ge=1024, le=2**24, description="Largest head of a request, trailers included")
    max_headers: int = Field(100, ge=8, le=10_000, description="Most headers of a request, trailers included")
    head_timeout: Seconds = Field(10, description="Seconds from the first byte of a request to the end of its head")
    body_grace: Seconds = Field(10, description="Seconds after which a request's body must keep to MIN_BODY_RATE")
    min_body_rate: int = Field(1024, ge=0, le=2**30, description="Least bytes a second of a request's body; 0: none")
    idle_timeout: Seconds = Field(30, description="Seconds that a connection may stay open without a request")
    drain_timeout: Seconds = Field(5, description="Seconds that the rest of a body is read after its answer")
    stalled_after: Seconds = Field(60, description="Seconds without a byte read after which a reader is cut off")
    max_pipelined: int = Field(32, ge=1, le=10_000, description="Requests of a connection that may wait for answers")
    max_connections_per_address: int = Field(
        512, ge=0, le=1_000_000, description="Most connections of an address, but of FORWARDED_ALLOW_IPS; 0: any number"
    )
    reserved_descriptors: int = Field(
        32, ge=0, le=10_000, description="File descriptors that are left for health checks"
    )

    gateway_config: Path | None = Field(None, description="YAML file of providers and model names; none: as without")

    agents_config: Path | None = Field(None, description="YAML file of agents; none: there are no agents")
    rate_limit_agents: Rate = Field("30/minute", description="All calls of /agents together")
    rate_limit_mcp: Rate = Field("60/minute", description="All calls of /mcp together")

    local_url: LocalUrl = Field(
        "",
        description="Where the local model and encoders are: http://, http+unix://, dns://, list+http://; empty: here",
    )
    local_model: str = Field(
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        min_length=1,
        description="Hub name (someone/llama@REVISION) or folder of the local model",
    )
    local_fallback: Literal["packaged", "none"] = Field(
        "packaged", description="packaged serves SmolLM2-135M-Instruct where LOCAL_MODEL cannot be had; none does not"
    )
    local_precision: Literal["auto", "bf16", "fp32", "int8", "int4"] = Field(
        "auto", description="auto, bf16, fp32, int8 or int4"
    )
    local_kv: Literal["auto", "int8"] = Field(
        "auto",
        description="What keys and values are kept in: auto as precise as weights need; int8 half of that",
    )
    local_cache_max_bytes: int = Field(
        0, ge=0, description="Most bytes of keys and values in memory, which all slots share; 0: half of what is free"
    )
    local_speculation: Literal["auto", "off"] = Field(
        "auto", description="auto checks guessed tokens where that is faster, which changes no answer; off does not"
    )
    local_draft: str = Field(
        "", description="Hub name or folder of a small model of the same tokenizer that drafts; empty: none does"
    )
    local_prefix_max_bytes: int = Field(
        536_870_912, ge=0, description="Most bytes of computed prompts kept in MODEL_CACHE_DIR over restarts; 0: none"
    )
    local_slots: int = Field(4, ge=1, le=64, description="Answers that the local model writes at the same time")
    local_queue_size: int = Field(16, ge=0, le=10_000, description="Calls that may wait for a slot; more get 503")
    local_queue_timeout: Seconds = Field(30, description="Seconds a call may wait for a slot")
    model_cache_dir: Path = Field(
        Path.home() / ".cache" / "genai-project", description="Folder for converted and packed weights"
    )

    embedding_models: Listed = Field(
        [],
        description="Folders of sentence encoders beside all-MiniLM-L6-v2, separated by commas; each answers to its"
        " folder's name",
    )

    rag_model: str = Field(
        "", max_length=200, description="Who writes answers from documents: a model's name; empty: the local model"
    )
    rag_quote_below: int = Field(
        1_000_000_000,
        ge=0,
        description="A local model with fewer parameters answers from documents in their own sentences; 0: never",
    )
    rag_min_score: float | None = Field(
        None, ge=-1, le=1, description="Cosine under which a passage is not relevant; empty: by the calibrated rule"
    )
    rag_context_tokens: int = Field(
        8192, ge=256, description="Context length taken for models of which the routing file does not tell it"
    )
    rag_max_upload_bytes: int = Field(
        67_108_864, ge=1024, description="Largest upload of documents as a form, in bytes, all its files together"
    )

    data_dir: Path = Field(
        Path.home() / ".local" / "share" / "genai-project",
        description="Folder for what the service keeps: keys, the ledger, documents",
    )

    database_url: DatabaseUrl = Field(
        SecretStr(""), description="postgresql://user:password@host/name; empty: SQLite in DATA_DIR"
    )
    database_timeout: Seconds = Field(
        0.9, description="Seconds that a call waits for the database before it is refused with 503"
    )
    ledger_journal: Literal["on", "off", "required"] = Field(
        "on",
        description="on: calls outlive a killed process by a file in DATA_DIR; required: where it cannot be written,"
        " calls are refused with 507",
    )
    ledger_retention_days: int = Field(
        0, ge=0, le=36_500, description="Days that the ledger keeps its rows, and their sums for ever; 0: rows too"
    )

    auth: Literal["auto", "on", "off"] = Field(
        "auto", description="auto: no key is needed in development while none exists; on: always; off: never"
    )
    secret_key: SecretKey = Field(
        SecretStr(""),
        description="Secret that keys are hashed with; outside production one is made in DATA_DIR",
    )
    oidc_issuer: IssuerUrl = Field("", description="Issuer of bearer tokens (OpenID Connect); empty: keys only")
    oidc_audience: WithIssuer = Field("", description="Audience that tokens must be for")
    oidc_jwks_url: IssuerUrl = Field("", description="Where the issuer's keys are; empty: as its configuration says")
    oidc_algorithms: Algorithms = Field(["RS256", "ES256"], description="Signatures that count, separated by commas")
    oidc_tenant_claim: str = Field("tenant", min_length=1, description="Claim that names the tenant")
    oidc_scope_claim: str = Field(
        "scope", min_length=1, description="Claim with models:PATTERN, routes:PATTERN and admin, a string or a list"
    )

    cache_storage: str = Field(
        "",
        pattern=r"^(|mem://|disk://.+|rediss?://.+)$",
        description="Where answers are cached: mem://, disk://FOLDER or redis://host:port; empty: nowhere",
    )
    cache_ttl: int = Field(3600, ge=1, le=604_800, description="Seconds that a cached answer is given")
    cache_max_bytes: int = Field(
        67_108_864, ge=65_536, description="Most bytes of cached answers in memory or on disk; Redis has its own limit"
    )

    allowed_origins: Origins = Field([], description="CORS origins outside development, separated by commas")
    forwarded_allow_ips: Listed = Field(
        [], description="Proxies (addresses or networks, separated by commas) whose X-Forwarded-For counts; * is all"
    )
    shutdown_grace: float = Field(
        20, ge=0, le=3600, description="Seconds that answers which somebody waits for may take after SIGTERM"
    )

    # --- Reranking
    rerank_model: str = Field(
        "",
        max_length=200,
        description="Cross-encoder: hub name or folder, or a name at RERANK_BASE_URL; empty: none",
    )
    rerank_base_url: str = Field(
        "", description="Upstream with Cohere's or Jina's /rerank; empty: RERANK_MODEL runs on this CPU"
    )
    rerank_api_key: HeaderValue = Field(SecretStr(""), description="Key of RERANK_BASE_URL")

    # --- RAG
    rag_uri: str = Field(
        "", description="Where the passages are kept: a folder or an object store (s3://...); empty: under DATA_DIR"
    )
    rag_max_file_bytes: int = Field(33_554_432, ge=1024, le=2**31, description="Largest document in bytes")
    rag_chunk_tokens: int = Field(
        220, ge=32, le=4096, description="Longest passage in tokens; less where the embedding model takes less"
    )
    rag_chunk_overlap: float = Field(0.15, ge=0, le=0.5, description="Share of a passage that the next one repeats")
    rag_ocr: Literal["auto", "off"] = Field(
        "auto", description="auto: pictures and scanned pages are recognised where tesseract is installed"
    )
    rag_ocr_languages: str = Field(
        "eng", pattern=r"^[A-Za-z_]{3,20}(\+[A-Za-z_]{3,20}){0,9}$", description="tesseract's languages, joined by +"
    )
    rag_embedding_model: str = Field(
        "",
        description="Name of an embedding model of EMBEDDING_MODELS, or else at OPENAI_BASE_URL; empty:"
        " all-MiniLM-L6-v2 on this CPU",
    )
    rag_embedding_dimensions: int = Field(
        1536, ge=8, le=4096, multiple_of=8, description="Dimensions of RAG_EMBEDDING_MODEL"
    )

    @property
    def starts_workers(self) -> bool:
        """Whether this process is to start API_WORKERS others, and to serve nothing itself."""
        return self.api_workers > 1 and self.serve_role == "all" and not self.api_peers


def load_settings() -> Settings:
    """Read the environment and `.env`.

    Raises SettingsError with one line for the first wrong value; the value itself is not repeated, since it
    may be a secret.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper()
        reason = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"Wrong setting {name}: {reason}") from None
