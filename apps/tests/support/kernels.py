"""The project's kernels for a test; skips it where there are none."""

import pytest

from apps.core.settings import Settings
from apps.local.engine.batching.opening import Library, own_library
from apps.local.engine.batching.packed_cache import Packer
from apps.local.engine.port import NoKernel


def kernels() -> Library:
    """Built once into the cache folder that all tests share."""
    try:
        return own_library(Settings().model_cache_dir)
    except NoKernel as error:
        pytest.skip(f"no kernels here: {error}")


def packer(threads: int = 2) -> Packer:
    """Packs weights with them."""
    return Packer(kernels().functions, threads)
