"""The command line's old address, for one release: `genai`, or `python -m apps.cli.main`, is the new one."""

import sys

from apps.cli.main import main

if __name__ == "__main__":
    print("python -m apps.api.src.cli is now: genai (or python -m apps.cli.main)", file=sys.stderr)
    sys.exit(main())
