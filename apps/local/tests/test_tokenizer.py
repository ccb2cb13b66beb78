"""Ours against transformers' own tokenizer, on the packaged model's."""

import json
import shutil
from pathlib import Path

import pytest

from apps.core.messages import Message, user_message
from apps.local.tokenizer import HubTokenizer

pytestmark = pytest.mark.local

CONVERSATIONS = [
    user_message("What is Python?"),
    user_message("  leading, <b>tags</b> & {{ braces }}\r\n🎉 日本語 "),
    (Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"), Message("user", "c")),
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_a_conversation_becomes_the_tokens_that_transformers_makes_of_it(
    packaged: Path, tokenizer: HubTokenizer, messages: tuple[Message, ...]
) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(packaged)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    expected = theirs.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_chat(messages) == expected
    assert tokenizer.decode(expected) == theirs.decode(expected, skip_special_tokens=True)


def test_the_end_tokens_come_from_every_file_that_names_one(packaged: Path, tmp_path: Path) -> None:
    folder = copied(packaged, tmp_path)
    assert HubTokenizer(folder).end_tokens == {2}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert HubTokenizer(folder).end_tokens == {2, 7}


def test_without_a_pad_token_the_end_token_pads(packaged: Path, tmp_path: Path) -> None:
    folder = copied(packaged, tmp_path)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["pad_token"]
    file.write_text(json.dumps(config))
    assert HubTokenizer(folder).pad_token == 2


def test_without_a_template_the_zephyr_format_is_used_with_the_tokenizers_own_end_token(
    packaged: Path, tmp_path: Path
) -> None:
    folder = copied(packaged, tmp_path)
    (folder / "chat_template.jinja").unlink()
    tokenizer = HubTokenizer(folder)
    assert not tokenizer.template.own
    assert tokenizer.template.render(user_message("Hi")) == (
        "<|system|>\nYou are a helpful assistant.<|im_end|>\n<|user|>\nHi<|im_end|>\n<|assistant|>\n"
    )


@pytest.mark.parametrize("in_config", [True, False])
def test_a_template_for_tools_is_found_where_transformers_finds_it(
    packaged: Path, tmp_path: Path, in_config: bool
) -> None:
    folder = copied(packaged, tmp_path)
    if in_config:
        (folder / "chat_template.jinja").unlink()
        file = folder / "tokenizer_config.json"
        named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools }} for tools"}]
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": named}))
    else:
        (folder / "chat_template.jinja").write_text("plain")
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }} for tools")
    template = HubTokenizer(folder).template
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert template.render(user_message("Hi")) == "plain"
    # it does not write calls in the form that they are read in: the tools come as a system turn
    assert template.render(user_message("Hi"), (tool,)) == "None for tools"


def test_truncation_left_in_the_file_never_cuts_a_prompt(packaged: Path, tmp_path: Path) -> None:
    folder = copied(packaged, tmp_path)
    file = folder / "tokenizer.json"
    whole = json.loads(file.read_text())
    whole["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(whole))
    assert len(HubTokenizer(folder).encode("word " * 100)) > 90


def copied(packaged: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in packaged.iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, folder)
    return folder
