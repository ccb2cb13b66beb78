"""The bodies of OpenAI's API as the OpenAPI page shows them. Nothing is validated by these: a target judges its body.

Only what callers mostly use is listed; every other field of OpenAI's API may stand beside it.
"""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from apps.core.fields import Schema

JsonObject = dict[str, Any]
MODEL = "A name of GET /v1/models, or any that the default provider knows"


TOKEN_IDS = Field(False, description="Tell the numbers of the tokens of prompt and answer; local model")
AS_TOKEN_IDS = Field(False, description="Name tokens by their numbers, as token_id:5, in logprobs; local model")
PROMPT_LOGPROBS = Field(None, ge=0, le=20, description="Tell log probabilities of the prompt's tokens; local model")
TRUNCATED = Field(
    None,
    ge=-1,
    description="Cut a prompt to its last so many tokens (truncation_side: right: its first); -1: to what leaves room "
    "for the answer; local model",
)


class _Body(Schema):
    model_config = ConfigDict(extra="allow")

    model: str = Field(description=MODEL)


class ChatCompletionsBody(_Body):
    messages: list[JsonObject] = Field(description="The conversation: objects with role and content", min_length=1)
    stream: bool = Field(False, description="Answer with server-sent events, ended by [DONE]")
    stream_options: JsonObject | None = Field(
        None,
        description='{"include_usage": true} adds a chunk with the usage; of the local model with '
        '"continuous_usage_stats": true each chunk has the usage so far',
    )
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    tools: list[JsonObject] | None = Field(None, description="Function tools")
    tool_choice: str | JsonObject | None = None
    response_format: JsonObject | None = Field(None, description="text, json_object or json_schema")
    continue_final_message: bool = Field(False, description="Go on from the last message, the assistant's; local model")
    add_generation_prompt: bool = Field(True, description="Whether the assistant's turn is begun; local model")
    include_reasoning: bool = Field(
        True, description="false: what the model thought is left out; models of this service"
    )
    thinking_token_budget: int | None = Field(None, ge=-1, description="Thoughts end after so many tokens; local model")
    echo: bool = Field(False, description="Begin the answer with the text of the last message; local model")
    return_token_ids: bool = TOKEN_IDS
    return_tokens_as_token_ids: bool = AS_TOKEN_IDS
    prompt_logprobs: int | None = PROMPT_LOGPROBS
    truncate_prompt_tokens: int | None = TRUNCATED


class CompletionsBody(_Body):
    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="The text to write on from, or several; as text or tokens. No chat template is applied"
    )
    stream: bool = Field(False, description="Answer with server-sent events, ended by [DONE]")
    stream_options: JsonObject | None = None
    max_tokens: int | None = Field(None, ge=1, description="Default 16")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, description="Answers to each prompt; the local model gives up to 4")
    best_of: int | None = Field(None, ge=1, description="Answers to choose the n likeliest from; not streamed")
    logprobs: int | None = Field(None, ge=0, le=20, description="Log probabilities of so many tokens in each place")
    echo: bool = Field(False, description="Repeat the prompt before the answer; with max_tokens 0 it is scored only")
    return_token_ids: bool = TOKEN_IDS
    return_tokens_as_token_ids: bool = AS_TOKEN_IDS
    prompt_logprobs: int | None = PROMPT_LOGPROBS
    truncate_prompt_tokens: int | None = TRUNCATED


class ResponsesBody(_Body):
    input: str | list[JsonObject] = Field(description="A prompt, or items: messages, function calls and their outputs")
    instructions: str | None = Field(None, description="A system message in front of the input")
    stream: bool = Field(False, description="Answer with events, ended by response.completed, incomplete or failed")
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    tools: list[JsonObject] | None = Field(None, description="Function tools")
    tool_choice: str | JsonObject | None = None
    text: JsonObject | None = Field(None, description="format: text, json_object or json_schema")
    previous_response_id: str | None = Field(None, description="Go on from a response that is kept")
    store: bool | None = Field(
        None, description="false: a response that is made from chat completions is not kept for RESPONSES_TTL seconds"
    )
    background: bool | None = Field(
        None, description="Answer at once, status queued; GET /v1/responses/{id} tells how far it is"
    )


class EmbeddingsBody(_Body):
    input: str | list[str] | list[int] | list[list[int]] = Field(
        description="One text or up to 2048, as text or the model's own tokens; all-MiniLM-L6-v2 takes 256 tokens each"
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="Fewer than the model's, where it was trained to be cut to them")
    truncation: bool | None = Field(None, description="Cut texts that are too long, instead of refusing them")
    truncate_prompt_tokens: int | None = Field(None, ge=-1, description="Cut texts to so many tokens; -1: to the most")


class TokenizeBody(_Body):
    prompt: str | None = Field(None, description="A text; no chat template is applied")
    content: str | None = Field(None, description="The same by llama.cpp's name, without a beginning of its own")
    add_special_tokens: bool = Field(True, description="Begin the prompt as the model was trained to see it")
    return_token_strs: bool = Field(False, description="Tell each token's text")
    messages: list[JsonObject] | None = Field(None, description="A chat in place of the prompt, with its tools")
    tools: list[JsonObject] | None = None


class DetokenizeBody(_Body):
    tokens: list[int]
