"""The certificates that servers are checked against: SSL_CERT_FILE and SSL_CERT_DIR, else those of the system."""

import platform
import ssl
from collections.abc import Mapping
from pathlib import Path

from apps.transport.errors import ConnectionFailed

CERT_FILE, CERT_DIR = "SSL_CERT_FILE", "SSL_CERT_DIR"


def client_context(environment: Mapping[str, str]) -> ssl.SSLContext:
    """A context for clients. Raises ConnectionFailed where a variable names nothing that can be read."""
    file, folder = environment.get(CERT_FILE), environment.get(CERT_DIR)
    if not file and not folder:
        context = _system_context()
    else:
        # OpenSSL takes a folder that is not there for one that is empty
        if folder and not Path(folder).is_dir():
            raise ConnectionFailed(f"{CERT_DIR} is not a folder")
        try:
            context = ssl.create_default_context(cafile=file or None, capath=folder or None)
        except OSError as error:  # an SSLError is one, too
            raise ConnectionFailed(f"{CERT_FILE} is not a file of certificates") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _system_context() -> ssl.SSLContext:
    if platform.system() in ("Windows", "Darwin"):
        import truststore  # asks the system itself, whose store OpenSSL cannot read there

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return ssl.create_default_context()
