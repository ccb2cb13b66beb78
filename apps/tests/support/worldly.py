"""The environment of what a test fetches from the world, such as a package."""

import json
import os
from collections.abc import Mapping, MutableMapping

KEPT = "MACHINE_ENVIRONMENT"
"""Where the machine's proxies and authorities are kept, as JSON, while tests do without them."""
AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def _is_of_the_world(name: str) -> bool:
    return name in AUTHORITIES or name.lower().endswith("_proxy")


def set_world_aside(environment: MutableMapping[str, str]) -> None:
    """Take the proxies and authorities out of an environment, and keep them for `worldly_environment`.

    A process that inherits an environment like that keeps what its parent kept.
    """
    found = {name: value for name, value in environment.items() if _is_of_the_world(name)}
    environment.setdefault(KEPT, json.dumps(found))
    for name in found:
        del environment[name]


def worldly_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """This process's, with the machine's proxies and authorities: tests themselves have none (see plugin.py)."""
    if KEPT not in environment:
        return dict(environment)
    own = {name: value for name, value in environment.items() if name != KEPT and not _is_of_the_world(name)}
    kept: dict[str, str] = json.loads(environment[KEPT])
    return own | kept
