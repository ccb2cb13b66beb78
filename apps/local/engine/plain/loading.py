"""Reads a checkpoint's folder into the plain engine. Runs in the loading thread; imports torch and transformers."""

import json
import logging
import math
import struct
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging as transformers_logging

from apps.core.process import Precision, choose_precision
from apps.local.engine.plain.engine import PlainEngine
from apps.local.tokenizer import HubTokenizer

log = logging.getLogger(__name__)


class CheckpointBroken(Exception):
    """The files are there but make no model; the message says what is wrong with them."""


def load_plain_engine(folder: Path, tokenizer: HubTokenizer, precision: Precision, slots: int) -> PlainEngine:
    """Raises CheckpointBroken; never runs code from the checkpoint and never reads pickled weights."""
    parameters = count_parameters(folder)
    transformers_logging.disable_progress_bar()
    choice = choose_precision(precision, parameters, native_bf16=torch.cpu._is_avx512_bf16_supported())
    if precision not in ("auto", choice.precision):
        log.warning("%s", choice.reason)
    dtype = torch.bfloat16 if choice.precision == "bf16" else torch.float32
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise CheckpointBroken(f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error
    if missing := sorted(report["missing_keys"]):
        # transformers fills these with random numbers and goes on
        raise CheckpointBroken(f"{folder} lacks weights: {', '.join(missing[:3])} and {len(missing)} in all")
    model.eval()
    _check_finite(folder, model)
    # a checkpoint's own sampling defaults must not mix with what a caller asks for
    model.generation_config = GenerationConfig()
    return PlainEngine(model, tokenizer, slots, choice)


def _check_finite(folder: Path, model: Any) -> None:
    """Raises CheckpointBroken for weights, or logits of a first forward pass, that are not finite."""
    for name, values in model.named_parameters():
        if not torch.isfinite(values).all():
            raise CheckpointBroken(f"{folder} is damaged: {name} has values that are not finite")
    with torch.inference_mode():
        logits = model(torch.zeros((1, 1), dtype=torch.long)).logits
    if not torch.isfinite(logits).all():
        raise CheckpointBroken(f"{folder} is damaged: a first forward pass gives logits that are not finite")


def count_parameters(folder: Path) -> int:
    """Numbers in all safetensors files, from their headers alone. Raises CheckpointBroken for a broken header."""
    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > file.stat().st_size:
                    raise ValueError("its header is longer than the file")
                header = json.loads(stream.read(length))
            count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, struct.error, AttributeError, TypeError) as error:
            raise CheckpointBroken(f"{file} is not a safetensors file: {error}") from error
    return count
