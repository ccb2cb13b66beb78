"""Fields of a request that the models of this process do not read: which are ignored and why, which must say nothing.

Every documented field of OpenAI's API, and of the dialects of it that clients of vLLM, llama.cpp, OpenRouter and Open
WebUI speak, is read, or ignored by the first list, or refused by its name unless its value asks for nothing.
"""

from collections.abc import Collection, Mapping
from typing import Any

from apps.core.errors import InvalidValue

# the name, and why leaving it out of account changes nothing that the caller could rely on
IGNORED: Mapping[str, str] = {
    "user": "bookkeeping of the caller's",
    "metadata": "bookkeeping of the caller's",
    "client_metadata": "bookkeeping of the caller's",
    "session_id": "bookkeeping of the caller's",
    "chat_id": "bookkeeping of the caller's",
    "request_id": "bookkeeping of the caller's; X-Request-ID names a call",
    "trace": "bookkeeping of the caller's",
    "tags": "bookkeeping of the caller's",
    "title": "bookkeeping of the caller's",
    "safety_identifier": "bookkeeping of the caller's",
    "store": "nothing is stored for later on this route, whatever is asked",
    "service_tier": "there is one tier",
    "priority": "calls are admitted in the order of arrival, fair between callers",
    "prediction": "a hint that makes some providers faster and changes no answer",
    "prompt_cache_key": "a hint for a cache of prompts; here it works by itself",
    "prompt_cache_retention": "a hint for a cache of prompts; here it works by itself",
    "cache_prompt": "the cache of prompts works by itself, and changes no answer",
    "id_slot": "slots are given out by the scheduler",
    "slot_id": "slots are given out by the scheduler",
    "keep_alive": "the model stays loaded",
    "num_ctx": "the context is the model's own",
    "num_keep": "nothing of a prompt is ever cut",
    "num_batch": "a setting of another engine's speed",
    "num_gpu": "a setting of another engine's speed",
    "num_thread": "a setting of another engine's speed",
    "n_keep": "nothing of a prompt is ever cut",
    "main_gpu": "a setting of another engine's speed",
    "use_mmap": "a setting of another engine's speed",
    "use_mlock": "a setting of another engine's speed",
    "mirostat_tau": "without mirostat it means nothing",
    "mirostat_eta": "without mirostat it means nothing",
    "dynatemp_exponent": "without dynatemp_range it means nothing",
    "dry_base": "without dry_multiplier it means nothing",
    "dry_allowed_length": "without dry_multiplier it means nothing",
    "dry_penalty_last_n": "without dry_multiplier it means nothing",
    "dry_sequence_breakers": "without dry_multiplier it means nothing",
    "xtc_threshold": "without xtc_probability it means nothing",
    "timings_per_token": "the receipt tells the times",
    "usage": "the usage is told in any case",
    "guided_decoding_backend": "there is one way of holding an answer to its form",
}
# values that ask for nothing; any other is refused by the field's name
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "modalities": (["text"], []),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "reasoning_effort": ("none",),
    "reasoning": ({}, {"enabled": False}, {"effort": "none"}),
    "thinking": ({"type": "disabled"}, {}, False),
    "include_reasoning": (True,),
    "verbosity": ("medium",),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "logprob_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "add_special_tokens": (False,),
    "add_generation_prompt": (True,),
    "echo": (False,),
    "truncation_side": ("left", "right"),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "return_tokens": (False,),
    "return_progress": (False,),
    "post_sampling_probs": (False,),
    "n_probs": (0,),
    "typical_p": (1,),
    "tfs_z": (1,),
    "top_a": (0,),
    "mirostat": (0,),
    "dynatemp_range": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "min_keep": (0,),
    "n_indent": (0,),
    "t_max_predict_ms": (0, -1),
    "repeat_last_n": (64, -1),
    "penalize_newline": (True,),
    "response_fields": ([],),
    "lora": ([],),
    "mm_processor_kwargs": ({},),
    "logits_processors": ([],),
    "vllm_xargs": ({},),
    "kv_transfer_params": ({},),
    "plugins": ([],),
    "transforms": ([],),
    "models": ([],),
    "provider": ({},),
    "files": ([],),
    "tool_ids": ([],),
    "features": ({},),
    "background_tasks": ({},),
    "raw": (False,),
}


# why a field is refused, where the caller can do something else
REASONS: Mapping[str, str] = {
    "use_beam_search": "answers are sampled; best_of gives the likeliest of several",
    "suffix": "it writes on from the end of a prompt",
}


def refuse_others(
    body: Mapping[str, Any],
    read: Collection[str],
    neutral: Mapping[str, tuple[Any, ...]] = NEUTRAL,
    who: str = "The local model",
) -> None:
    """Raise InvalidValue for a field that is neither read nor ignored, and whose value asks for something."""
    for name, value in body.items():
        if name in read or name in IGNORED or asks_for_nothing(value, neutral.get(name, ())):
            continue
        reason = f": {REASONS[name]}" if name in REASONS else ""
        raise InvalidValue(f"{who} cannot honour {name[:100]}{reason}", field=name[:100])


def asks_for_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    """``null`` and what is empty do, and what is one of ``neutral``; true and 1 are different values."""
    if value is None or value == [] or value == {}:
        return True
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)


def label(name: str) -> str:
    return name.replace("_", " ").capitalize()
