"""An OpenID Connect issuer on this machine: its configuration, its keys, which rotate, and tokens of every kind."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from apps.tests.marks import learn_credential

AUDIENCE = "genai"
Private = RSAPrivateKey | EllipticCurvePrivateKey


class Issuer:
    """``down`` answers 500; ``mute`` answers nothing for as long as it is set."""

    def __init__(self) -> None:
        self.keys: dict[str, Private] = {}
        self.url = ""
        self.down = False
        self.mute = False
        self.asked = 0

    def rotate(self, name: str, *, curve: bool = False) -> Private:
        """A new key, and only this one from now on."""
        made: Private
        made = ec.generate_private_key(ec.SECP256R1()) if curve else rsa.generate_private_key(65537, 2048)
        self.keys = {name: made}
        return made

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300, **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, kid: str = "", *, key: Private | None = None, algorithm: str = "RS256", **changes: Any) -> str:
        kid = kid or next(iter(self.keys))
        token = jwt.encode(self.claims(**changes), key or self.keys[kid], algorithm, headers={"kid": kid})
        learn_credential(token)
        return token

    def answer(self, path: str) -> Any:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        return {"keys": [{**_public(key), "kid": name, "use": "sig"} for name, key in self.keys.items()]}


def _public(key: Private) -> dict[str, Any]:
    if isinstance(key, RSAPrivateKey):
        return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return ECAlgorithm.to_jwk(key.public_key(), as_dict=True)


@contextmanager
def oidc_issuer() -> Iterator[Issuer]:
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked += 1
            while issuer.mute:
                time.sleep(0.05)
            body = json.dumps(issuer.answer(self.path)).encode()
            self.send_response(500 if issuer.down else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # whoever asked has given up
                return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = f"http://127.0.0.1:{server.server_address[1]}"
    issuer.rotate("first")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield issuer
    finally:
        issuer.mute = False
        server.shutdown()
        thread.join()
        server.server_close()
