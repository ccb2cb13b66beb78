"""Tests of other servers' suites that are not about the API, by a pattern of their names, each with the reason.

They are skipped; where the reasons themselves are checked (``CHECKED`` in the environment) they run, and one that
passes is a failure: its reason does not hold.
"""

import os
import re
from collections.abc import Mapping

import pytest

CHECKED = "PEER_CHECK_LEFT_OUT"


def leave_out(item: pytest.Item, name: str, patterns: Mapping[str, str]) -> None:
    """Skip ``item`` where a pattern matches its whole ``name``."""
    for pattern, reason in patterns.items():
        if re.fullmatch(pattern, name):
            checked = os.environ.get(CHECKED) and reason not in BY_LUCK
            item.add_marker(
                pytest.mark.xfail(reason=reason, strict=True) if checked else pytest.mark.skip(reason=reason)
            )
            return


NATIVE = "about their own route /completion and the fields of its answer; ours is OpenAI's"
FIRST_DELTA = "their first delta has content null; OpenAI's and vLLM's have an empty string, and so has ours"
OWN_ROUTE = "about a route of their own that shows their server's insides"
THEIR_FORMS = "about forms of a prompt that OpenAI's API does not have; an empty text is refused there"
PROGRESS = "about return_progress, a field of theirs; it is refused by its name"
PICTURE = "a picture for a model without eyes is a 500 there, and here a 400, as in Anthropic's API"
LLAMA_CPP: Mapping[str, str] = {
    r"test_completion(_stream)?\[.*": NATIVE,
    r"test_(completion_stream_vs_non_stream|consistent_result_.*|different_result_.*|n_probs.*|ignore_eos_.*)": NATIVE,
    r"test_completion_(with_tokens_input|parallel_slots.*|response_fields.*|prompt_cache)": NATIVE,
    r"test_(nocache_long_input_prompt|json_prompt_no_mtmd|logit_bias\[.*|cancel_request)": NATIVE,
    r"test_chat_completion_stream\[.*": FIRST_DELTA,
    r"test_logprobs_stream": FIRST_DELTA,
    r"test_chat_completion_with_timings_per_token": FIRST_DELTA,
    r"test_chat_completion_cached_tokens": "counts the tokens of their model's template",
    r"test_invalid_chat_completion_req\[messages7\]": "two answers in a row, which OpenAI's API takes",
    r"test_context_size_exceeded.*": "about a context of 256 tokens, which a flag of theirs sets",
    r"test_return_progress.*": PROGRESS,
    r"test_responses_stream_with_llama_telemetry": PROGRESS,
    r"test_verbose_debug": "about a field of theirs that shows the prompt",
    r"test_embedding_mixed_input\[(-False|input(3|5|7|8|9|10)-.*)\]": THEIR_FORMS,
    r"test_embedding_content_text_same_as_string": THEIR_FORMS,
    r"test_embedding_multiple_with_fa": "about texts longer than this model's 256 tokens",
    r"test_embedding_error_prompt_too_long": "about the words of an error; the text is refused by its index here",
    r"test_embedding_pooling_none.*": "about their flag for pooling",
    r"test_anthropic_(tool_result_with_image|vision_format_accepted)": PICTURE,
    r"test_anthropic_empty_messages": "no messages is a 400 in Anthropic's API",
    r"test_tokenize_with_bos": "their model's tokenizer has a token that begins a text; the packaged one has none",
    r"test_server_(props|slots)": OWN_ROUTE,
    r"test_server_models": "their server has one model; this service lists all that can be asked",
    r"test_no_ui": "about their flag and page; GET / answers in JSON to who does not ask for HTML",
    r"test_server_multiple_addresses": "about their flag for addresses",
}
THEIR_ERRORS = "about the words of an error, which are pydantic's there"
THEIR_MODEL = "about what their model says, and knows"
CHANCE = "two answers that are drawn are to differ, which a small model's often do not"
HURRY = "gives the answer a second, and takes in_progress for a failure"
# whether one of these passes is no sign that its reason does not hold
BY_LUCK = frozenset({CHANCE, HURRY})
THINKING = "about a model that thinks, as theirs does and the packaged one does not"
EFFORT = "asks for an effort, which is refused by its name: as at OpenAI, the model does not think"
LAST_CHUNK = "their last chunk has text and the finish reason together; OpenAI's and ours has the reason alone"
SHOWS_PROMPT = "about enable_response_messages, a field of theirs that shows the prompt"
INNER_TOOLS = "about tools of gpt-oss, which run inside their server"
BATCHED = "about a route of theirs for many chats in one body"
EMBEDS = "about their flag --enable-prompt-embeds"
# files that cannot be read here, as their names end; all others are about their internals
UNREADABLE: Mapping[str, str] = {
    "test_batched_chat_completions": BATCHED,
    "with_prompt_embeds": EMBEDS,
    "test_lmeval": "measures how well their model answers, with a package for that",
    "test_openai_schema": "reads their OpenAPI document, and asks what it has with a package for that",
}
VLLM: Mapping[str, str] = {
    r"test_chat\.py::test_chat_streaming.*": LAST_CHUNK,
    r"test_chat\.py::test_chat_completion_stream_options.*": LAST_CHUNK,
    r"test_chat\.py::test_single_chat_session.*": "counts the tokens of their model's template",
    r"test_chat\.py::test_structured_outputs_choice_chat": CHANCE,
    r"test_chat\.py::test_(complex_message_content|structured_outputs_(json|regex)_chat)": THEIR_MODEL,
    r"test_chat\.py::test_more_than_one_prompt_logprobs_chat.*": "their model is sure of its prompt's fourth token",
    r"test_chat\.py::test_custom_role": "about roles that OpenAI's API does not have",
    r"test_chat\.py::test_invocations": "about a route of SageMaker's",
    r"test_chat\.py::test_long_seed": THEIR_ERRORS,
    r"test_chat_echo\.py::test_(prompt|top)_logprobs": "about their flag --max-logprobs",
    r"test_chat_completion\.py::test_kv_transfer.*": "about kv_transfer_params, a field between two of their servers",
    r"test_chat_completion\.py::test_per_request_metrics.*": "about their flag for metrics in an answer",
    r"test_batched_chat_completions\.py::.*": BATCHED,
    r"test_completion\.py::test_(completion_streaming|parallel_streaming).*": LAST_CHUNK,
    r"test_completion\.py::test_batch_completions.*": "asks for beam search, which is refused by its name",
    r"test_thinking_token_budget\.py::test_thinking_token_budget_limits_reasoning.*": THINKING,
    r"test_parsable_context\.py::test_(reasoning_and_function_items|function_call_first_turn).*": THINKING,
    r"test_parsable_context\.py::test_max_tokens.*": EFFORT,
    r"test_parsable_context\.py::test_mcp_tool_call.*": INNER_TOOLS,
    r"test_mcp_tools\.py::test_mcp_tool_.*": INNER_TOOLS,
    r"test_harmony\.py::test_(basic_with_reasoning_effort|max_tokens|streaming_types)\[.*": EFFORT,
    r"test_harmony\.py::test_(streaming|output_messages_enabled)\[.*": SHOWS_PROMPT,
    r"test_harmony\.py::test_system_prompt_override_no_duplication\[.*": SHOWS_PROMPT,
    r"test_harmony\.py::test_function_call_with_previous_input_messages.*": SHOWS_PROMPT,
    r"test_harmony\.py::test_(code_interpreter|mcp_tool_multi_turn)\[.*": INNER_TOOLS,
    r"test_harmony\.py::test_function_calling(_multi_turn|_full_history|_with_stream)?\[auto.*": THEIR_MODEL,
    r"test_harmony\.py::test_function_calling_no_code_interpreter_events\[auto.*": THEIR_MODEL,
    r"test_namespace_tool_separator\.py::.*": THEIR_MODEL,
    r"test_decisions_e2e\.py::.*": "about a route of theirs, /v1/decisions",
    r"test_models\.py::.*": "about adapters that a flag of theirs adds to a model",
    r"test_extra_content_fields\.py::.*": "about a model whose template reads fields of its own",
    r"test_include_reasoning\.py::test_(include_reasoning_true|reasoning_tokens_in_usage|default).*": THINKING,
    r"test_simple\.py::test_(reasoning_item|(non_)?streaming_reasoning_tokens_e2e).*": THINKING,
    r"test_simple\.py::test_(max_tokens|streaming_types).*": EFFORT,
    r"test_simple\.py::test_enable_response_messages.*": SHOWS_PROMPT,
    r"test_basic\.py::test_(simple_input|instructions|chat)": THEIR_MODEL,
    r"test_structured_output\.py::.*": THEIR_MODEL,
    r"test_completion_with_function_calling\.py::test_function_tool_use\[(plain|watermarked)-True-.*": THINKING,
    r"test_completion_with_function_calling\.py::test_function_tool_use\[.*-False-auto-.*": THEIR_MODEL,
    r"test_function_call\.py::test_function_tool_use\[required.*": THINKING,
    r"test_completion_with_function_calling\.py::test_named_tool_use.*": THEIR_MODEL,
    r"test_function_call\.py::test_function_calling_with_streaming_expected_arguments.*": THEIR_MODEL,
    r"test_function_call\.py::test_function_calling_with_streaming_forced_tool_choice\[auto.*": THEIR_MODEL,
    r"test_function_call\.py::test_max_tokens_with_tool_choice_required.*": "their response has an empty message where"
    " nothing is said, and ours no item",
    r"test_return_token_ids\.py::test_chat_completion_with_tool_use.*": THEIR_MODEL,
    r"test_return_token_ids\.py::test_comparison_with.*": "their model writes on where the packaged one ends at once",
    r"test_return_tokens_as_ids\.py::test_chat_.*": "ends within a character, by another tokenizer than theirs",
    r"test_stateful\.py::test_background": HURRY,
    r"test_stateful\.py::test_previous_response_id": THEIR_MODEL,
}
