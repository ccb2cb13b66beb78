"""Tests of other servers' suites that are not about the API, by a pattern of their names, each with the reason."""

from collections.abc import Mapping

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
    r"test_(nocache_long_input_prompt|json_prompt_.*|logit_bias\[.*|cancel_request)": NATIVE,
    r"test_chat_completion_stream\[.*": FIRST_DELTA,
    r"test_logprobs_stream": FIRST_DELTA,
    r"test_chat_completion_with_timings_per_token": FIRST_DELTA,
    r"test_chat_completion_cached_tokens": "counts the tokens of their model's template",
    r"test_invalid_chat_completion_req\[messages7\]": "two answers in a row, which OpenAI's API takes",
    r"test_context_size_exceeded.*": "about a context of 256 tokens, which a flag of theirs sets",
    r"test_return_progress.*": PROGRESS,
    r"test_responses_stream_with_llama_telemetry": PROGRESS,
    r"test_chat_completions_token_count": "about a route of theirs; /v1/tokenize counts a chat's tokens here",
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
OWN_FIELDS = "about fields of theirs, which are refused by their names: prompt_logprobs, return_token_ids and the like"
THEIR_ERRORS = "about the words of an error, which are pydantic's there"
VLLM: Mapping[str, str] = {
    r"test_chat\.py::test_(more_than_one_)?prompt_logprobs_chat.*": OWN_FIELDS,
    r"test_return_token(s_as_i|_i)ds\.py::.*": OWN_FIELDS,
    r"test_chat_completion\.py::test_(kv_transfer|per_request_metrics).*": OWN_FIELDS,
    r"test_completion\.py::test_(logprob_token_ids|prompt_logprobs|completion_truncation_side).*": OWN_FIELDS,
    r"test_chat\.py::test_chat_completion_stream_options.*": "without a stream its options ask for nothing here, there"
    " they are an error",
    r"test_chat\.py::test_single_chat_session.*": "compares the usage with one that has no details",
    r"test_chat\.py::test_complex_message_content": "about what their model says",
    r"test_chat\.py::test_custom_role": "about roles that OpenAI's API does not have",
    r"test_chat\.py::test_invocations": "about a route of SageMaker's",
    r"test_chat\.py::test_long_seed": THEIR_ERRORS,
    r"test_chat_logit_bias_validation\.py::.*": THEIR_ERRORS,
    r"test_stateful\.py::.*": "responses are not stored on this route; an upstream that stores them has its own",
}
