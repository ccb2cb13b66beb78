"""`python -m apps.rag`, for one release more: the command is `python -m apps.cli.documents`.

The one import from below to above, which pyproject.toml names; it goes with the next release.
"""

import sys

from apps.cli.documents import main

if __name__ == "__main__":
    print("python -m apps.rag will go: use python -m apps.cli.documents, or genai", file=sys.stderr)
    sys.exit(main())
