"""The packed weights' file where its disk is full, and what a killed process left beside it."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from apps.local.engine.batching.packed_cache import load_weights
from apps.local.engine.batching.shape import read_shape
from apps.local.tests.small_disk import run_on_small_disk
from apps.tests.support.kernels import packer

pytestmark = pytest.mark.local

PACK = """
import hashlib, logging, sys
from pathlib import Path
from apps.core.settings import Settings
from apps.local.engine.batching.opening import own_library
from apps.local.engine.batching.packed_cache import Packer, load_weights
from apps.local.engine.batching.shape import read_shape
logging.basicConfig(format="%(levelname)s %(message)s")
folder, cache_dir = map(Path, sys.argv[1:])
packer = Packer(own_library(Settings().model_cache_dir).functions, 2)
weights = load_weights(folder, read_shape(folder), "int4", cache_dir, packer)
print(hashlib.sha256(b"".join(weights.packed[name].tobytes() for name in sorted(weights.packed))).hexdigest())
print("left behind:", list((cache_dir / "packed").iterdir()))
"""


@pytest.mark.long
def test_a_full_disk_means_packing_into_memory_with_a_warning(packaged: Path, tmp_path: Path) -> None:
    done = run_on_small_disk(tmp_path, 8, PACK, str(packaged), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "WARNING Packed weights cannot be kept" in done.stderr and "No space left on device" in done.stderr
    packed, left_behind = done.stdout.splitlines()
    assert left_behind == "left behind: []"
    # and they are the weights that the file would have held: nothing is mounted here
    kept = load_weights(packaged, read_shape(packaged), "int4", tmp_path, packer()).packed
    assert packed == hashlib.sha256(b"".join(kept[name].tobytes() for name in sorted(kept))).hexdigest()


@pytest.mark.long
def test_what_a_killed_process_left_is_removed_at_the_next_packing(packaged: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    old, new = (tmp_path / "packed" / f".{name}.partial" for name in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    load_weights(packaged, read_shape(packaged), "int4", tmp_path, packer())
    assert (old.exists(), new.exists()) == (False, True)
