"""The operator's command line: python -m apps.cli.main keys create --name ci

It works on the database of the settings, whether or not the service runs.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from apps.cli import keys as key_commands
from apps.cli.keys import CommandFailure
from apps.core.settings import SettingsError, load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 where it failed, 2 where the command is wrong. Errors are one line."""
    parser = argparse.ArgumentParser(prog="python -m apps.cli.main", description="Runs a genai-project service.")
    key_commands.add_to(parser.add_subparsers(required=True, metavar="COMMAND"))
    given = parser.parse_args(arguments)
    # the reason is told once, below
    logging.disable(logging.CRITICAL)
    try:
        given.run(load_settings(), given)
    except (SettingsError, CommandFailure) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
