"""A checkpoint of TinyLlama-1.1B-Chat's shape with random weights: the same cost a token, no meaning.

`python -m eval.tinyllama_shape FOLDER` writes config, bf16 weights (2.2 GB), and a tokenizer of 32,000 tokens with
the Zephyr chat template.
"""

import itertools
import sys
from pathlib import Path
from typing import Any

SIZES: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)


def vocabulary() -> list[str]:
    """The special tokens, the bytes, single characters, then made-up words."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    tokens += [chr(code) for code in range(33, 127)]
    syllables = [a + b for a, b in itertools.product("bcdfghjklmnprstvwz", "aeiou")]
    words = (f"\u2581{a}{b}{end}" for a, b, end in itertools.product(syllables, syllables, ["", "n", "s", "r"]))
    numbered = (f"\u2581w{number}" for number in itertools.count())
    return tokens + list(itertools.islice(itertools.chain(words, numbered), SIZES["vocab_size"] - len(tokens)))


def write(folder: Path) -> None:
    if (folder / "model.safetensors").is_file():
        return
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    # normal weights of 0.02, norms of 1: what transformers begins a training with
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    scores = [(token, -10.0 if number > 258 else -100.0) for number, token in enumerate(vocabulary())]
    backend = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=SIZES["max_position_embeddings"], **SPECIAL
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
