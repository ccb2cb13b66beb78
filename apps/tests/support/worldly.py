"""The environment of what a test fetches from the world, such as a package."""

import os

MACHINE_CERTIFICATES = "MACHINE_SSL_CERT_FILE"


def worldly_environment() -> dict[str, str]:
    """This process's, with the certificates that the machine trusts: tests themselves trust none (see plugin.py)."""
    own = {name: value for name, value in os.environ.items() if name not in (MACHINE_CERTIFICATES, "SSL_CERT_FILE")}
    trusted = os.environ.get(MACHINE_CERTIFICATES)
    return own | ({"SSL_CERT_FILE": trusted} if trusted else {})
