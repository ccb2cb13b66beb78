"""What set-up does ahead for the first start: the packaged model's folder, and its weights as the kernels want them.

python -m apps.local.prepare
"""

import logging
import sys

from apps.core.process import available_cpus
from apps.core.settings import SettingsError, load_settings
from apps.local.engine.batching.opening import own_library
from apps.local.engine.batching.packed_cache import Packer, load_weights
from apps.local.engine.batching.shape import read_shape
from apps.local.engine.port import NoKernel, UnsupportedModel
from apps.local.packaged import PackagedModelError, packaged_checkpoint


def main() -> int:
    """Prepare the packaged model in MODEL_CACHE_DIR; 1 and one line where that cannot be done."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        settings = load_settings()
        folder, cache_dir = packaged_checkpoint(settings.model_cache_dir), settings.model_cache_dir
        packer = Packer(own_library(cache_dir).functions, available_cpus())
        precision = "int4" if settings.local_precision == "auto" else settings.local_precision
        load_weights(folder, read_shape(folder), precision, cache_dir, packer)
    except NoKernel as error:
        # torch's kernels take the weights as they are
        print(f"Nothing is packed: {error}", file=sys.stderr)
        return 0
    except (PackagedModelError, UnsupportedModel, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
