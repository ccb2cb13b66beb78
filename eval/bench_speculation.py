"""What speculation is worth: one caller's tokens/s with and without it, in turns, on one engine's weights.

python -m eval.bench_speculation [--folder FOLDER] [--precision int4] [--rounds N] [--draft FOLDER | --draft-layers N].
Copy-heavy answers (a quote from documents, an edit of code, JSON by a schema) and text that does not repeat (sampled at
temperature 1). Every answer must be the same with and without it, else this ends with an error. With a draft a third
engine has a model that drafts, too (LOCAL_DRAFT, at int4): another checkpoint of the same tokenizer, `--folder` itself,
which pays where --precision is a wider one, or its first N layers. Writes reports/bench_speculation.md.
"""

import argparse
import asyncio
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import cast

from apps.core.messages import ChatRequest, JsonObject, Message, Role, user_message
from apps.core.settings import load_settings
from apps.local.answer_grammar import answer_grammar, open_compiler
from apps.local.engine.batching.opening import Options, open_engine
from apps.local.engine.port import Engine, Precision, Sampling
from apps.local.packaged import transformers_checkpoint
from apps.local.tokenizer import HubTokenizer
from eval.bench_report import processor

PASSAGE = (
    "The museum opens on weekdays at nine in the morning and closes at half past five. On Saturdays it opens at ten "
    "and closes at eight in the evening. Children below the age of twelve pay nothing; students pay four euros, "
    "everyone else nine. Photographs may be taken without a flash, except in the hall of tapestries upstairs. "
    "Bags larger than a sheet of paper have to be left at the cloakroom, which is free of charge."
)
CODE = """def read_orders(path, currency="EUR"):
    orders = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            number, customer, amount = line.rstrip().split(";")
            orders.append({"number": int(number), "customer": customer, "amount": float(amount)})
    return [order for order in orders if order["amount"] > 0]
"""
SCHEMA: JsonObject = {
    "type": "object",
    "additionalProperties": False,
    "required": ["shipments"],
    "properties": {
        "shipments": {
            "type": "array",
            "minItems": 4,
            "maxItems": 4,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["tracking_number", "destination_country", "is_insured", "weight_in_kilograms"],
                "properties": {
                    "tracking_number": {"type": "integer", "minimum": 1, "maximum": 99},
                    "destination_country": {"enum": ["Switzerland", "Liechtenstein", "Luxembourg"]},
                    "is_insured": {"type": "boolean"},
                    "weight_in_kilograms": {"type": "integer", "minimum": 1, "maximum": 99},
                },
            },
        }
    },
}


QUOTED = (
    "The library lends books for three weeks. Whoever needs one for longer may ask at the desk, unless somebody else "
    "waits for it.",
    "The night train leaves from platform four. Bicycles travel in the last coach, and seats in the first must be "
    "booked a day before.",
)
ROLES: tuple[Role, Role] = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class Case:
    """``aim`` is the least ratio of tokens/s with speculation to those without. ``copies``: the answer must be one.

    ``examples`` are answered prompts that come before: a model of 135 million parameters copies where it has seen how,
    and paraphrases otherwise.
    """

    name: str
    prompt: str
    aim: float
    tokens: int = 160
    temperature: float = 0.0
    schema: JsonObject | None = None
    examples: tuple[tuple[str, str], ...] = ()
    copies: bool = False

    def messages(self) -> tuple[Message, ...]:
        turns = [Message(role, text) for pair in self.examples for role, text in zip(ROLES, pair, strict=True)]
        return (*turns, *user_message(self.prompt))


QUOTE = "Quote this passage word for word:\n\n{}"
CASES = (
    Case(
        *("a quote from documents", QUOTE.format(PASSAGE), 2.0),
        examples=tuple((QUOTE.format(text), text) for text in QUOTED),
        copies=True,
    ),
    Case(
        "an edit of code",
        f'```python\n{CODE}```\nWrite this function again with currency="USD".',
        2.0,
        140,
        copies=True,
    ),
    Case("JSON by a schema", "List four shipments as JSON.", 2.0, 200, schema=SCHEMA),
    Case("text that does not repeat", "Tell a story about a lighthouse, a storm and a fox.", 0.97, 160, 1.0),
    Case("another one", "Explain how bread is made, from the field to the table.", 0.97, 160, 1.0),
)


def copied(answer: str, prompt: str) -> float:
    """The share of the runs of four words of ``answer`` that stand in ``prompt``, too."""
    words, there = answer.split(), f" {' '.join(prompt.split())} "
    runs = [" ".join(words[at : at + 4]) for at in range(len(words) - 3)]
    return sum(f" {run} " in there for run in runs) / max(1, len(runs))


async def timed(engine: Engine, prompt: Sequence[int], sampling: Sampling) -> tuple[float, str]:
    """Tokens a second behind the first piece, and the answer."""
    text, first, began = "", 0, 0.0
    async for piece in engine.generate(prompt, sampling):
        if not began:
            began, first = time.perf_counter(), piece.completion_tokens
        text, tokens = text + piece.text, piece.completion_tokens
    return (tokens - first) / (time.perf_counter() - began), text


async def measure(engines: dict[str, Engine], tokenizer: HubTokenizer, rounds: int) -> list[str]:
    compiler = open_compiler(tokenizer)
    rows = []
    for case in CASES:
        prompt = tokenizer.encode_chat(case.messages())
        speeds: dict[str, list[float]] = {name: [] for name in engines}
        texts = set()
        for at in range(rounds + 1):
            for name, engine in engines.items():
                constraint = None
                if case.schema is not None:
                    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": case.schema}}
                    grammar = answer_grammar(ChatRequest(user_message(case.prompt), response_format=form))
                    assert grammar is not None  # noqa: S101 - for the type checker: the request has a schema
                    constraint = await compiler.compile(grammar.lark, grammar.field)
                sampling = Sampling(case.temperature, 1.0, case.tokens, 11, constraint=constraint)
                speed, text = await timed(engine, prompt, sampling)
                texts.add(text)
                # the first round computes the prompt
                speeds[name] += [speed] if at else []
        if len(texts) != 1:
            raise SystemExit(f"{case.name}: answers differ with and without speculation")
        if case.copies and (share := copied(min(texts), case.prompt)) < 0.5:
            raise SystemExit(f"{case.name}: of this model's answer only {share:.0%} are copied, it measures nothing")
        ratio = gain(speeds["on"], speeds["off"])
        rows.append(
            f"| {case.name} | {median(speeds['off']):.1f} | {median(speeds['on']):.1f} | {ratio:.2f} | {case.aim} |"
            + drafted(speeds)
        )
        print(rows[-1], flush=True)
    compiler.close()
    return rows


def gain(speeds: Sequence[float], without: Sequence[float]) -> float:
    return median(one / other for one, other in zip(speeds, without, strict=True))


def drafted(speeds: Mapping[str, Sequence[float]]) -> str:
    """The cells of the engine with a model that drafts, where there is one."""
    if "draft" not in speeds:
        return ""
    return f" {median(speeds['draft']):.1f} | {gain(speeds['draft'], speeds['off']):.2f} |"


def first_layers(folder: Path, layers: int, target: Path) -> Path:
    """A checkpoint of the first layers of one of a single safetensors file, with its embedding, norm and head."""
    from safetensors.torch import load_file, save_file

    kept = {
        name: tensor.clone()
        for name, tensor in load_file(folder / "model.safetensors").items()
        if ".layers." not in name or int(name.split(".layers.")[1].split(".")[0]) < layers
    }
    target.mkdir(parents=True, exist_ok=True)
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    for file in folder.glob("*.json"):
        shutil.copy(file, target)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": layers}
    (target / "config.json").write_text(json.dumps(config))
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None, help="a checkpoint; none: the packaged model")
    parser.add_argument("--precision", default="int4", choices=["int4", "int8", "bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=5)
    drafting = parser.add_mutually_exclusive_group()
    drafting.add_argument(
        "--draft", type=Path, default=None, help="a checkpoint of the same tokenizer; self: the model"
    )
    drafting.add_argument("--draft-layers", type=int, default=None, help="the model's own first layers draft")
    options = parser.parse_args()
    cache_dir = load_settings().model_cache_dir
    folder = options.folder or transformers_checkpoint(cache_dir)
    tokenizer = HubTokenizer(folder)
    precision = cast(Precision, options.precision)
    engines: dict[str, Engine] = {
        name: open_engine(folder, tokenizer, precision, 1, cache_dir, Options(name == "on")) for name in ("off", "on")
    }
    draft = folder if options.draft == Path("self") else options.draft
    if options.draft_layers is not None:
        draft = first_layers(folder, options.draft_layers, cache_dir / f"{folder.name}-first-{options.draft_layers}")
    if draft is not None:
        engines["draft"] = open_engine(folder, tokenizer, precision, 1, cache_dir, Options(draft=draft))
    rows = asyncio.run(measure(engines, tokenizer, options.rounds))
    described = {name: engine.describe() for name, engine in engines.items()}
    for engine in engines.values():
        engine.close()
    drafts = f" Drafts: {draft.name} at int4." if draft else ""
    more, lines = ("| with a model that drafts | ratio |", "---|---|") if draft else ("|", "")
    head = (
        f"# Speculation: one caller's tokens/s with and without it, in turns\n\n{processor()}, {os.cpu_count()} cores, "
        f"{folder.name} at {precision}, kernels: {described['on']['kernels']}; medians of {options.rounds} rounds, "
        f"load average {os.getloadavg()[0]:.1f}. The answers are the same.{drafts}\n\n"
        f"| answer | off | on | ratio | aim {more}\n|---|---|---|---|---|{lines}\n"
    )
    Path("reports").mkdir(exist_ok=True)
    (Path("reports") / "bench_speculation.md").write_text(head + "\n".join(rows) + "\n")
    counts = ("drafted_tokens", "accepted_tokens")
    told = {name: {count: described[name][count] for count in counts} for name in described if name != "off"}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
