"""What a key looks like, what is kept of it, and the secret that makes that useless to whoever reads the database."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

MARK = "ga_"
RANDOM_BYTES = 32
# seven characters, so that not even eight of the key lie anywhere
SHOWN_CHARACTERS = len(MARK) + 4
FILE = "secret_key"


def new_key() -> str:
    """256 random bits behind a mark that a search for leaked secrets can look for."""
    return MARK + secrets.token_urlsafe(RANDOM_BYTES)


def looks_like_key(credential: str) -> bool:
    """Whether it was made by this product; who knows no more than that knows nothing."""
    return credential.startswith(MARK)


def shown_prefix(key: str) -> str:
    """The beginning by which its owner recognises a key; it is of no use to anybody else."""
    return f"{key[:SHOWN_CHARACTERS]}..."


def digest_of(key: str, secret: bytes) -> bytes:
    return hmac.digest(secret, key.encode("utf-8", "surrogateescape"), hashlib.sha256)


def server_secret(configured: str, data_dir: Path) -> bytes:
    """SECRET_KEY, or one of this machine's own: made once in ``data_dir``, for its owner's eyes only."""
    if configured:
        return configured.encode()
    file = data_dir / FILE
    if not file.exists():
        _make(file)
    return file.read_bytes()


def _make(file: Path) -> None:
    """Whole or not at all, and the first of several processes wins."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(secrets.token_urlsafe(48))
    try:
        os.link(draft, file)
    except FileExistsError:
        return
    finally:
        draft.unlink()
