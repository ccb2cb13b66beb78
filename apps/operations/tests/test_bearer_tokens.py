"""Tokens of an issuer: only good ones make a caller, keys rotate, and an issuer that is away keeps nobody waiting."""

import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from apps.core.errors import AppError
from apps.operations.bearer_tokens import FRESH_SECONDS, PAUSE_SECONDS, BearerTokens, IssuerUnavailable, Jwks
from apps.tests.support.clock import Clock
from apps.tests.support.oidc_issuer import AUDIENCE, Issuer, oidc_issuer


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with oidc_issuer() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def tokens(issuer: Issuer, clock: Clock) -> AsyncIterator[BearerTokens]:
    jwks = Jwks(issuer.url, clock=clock)
    made = BearerTokens(jwks, issuer.url, AUDIENCE, ["RS256", "ES256"], "tenant", "scope")
    yield made
    await made.aclose()


async def test_a_tokens_claims_make_the_caller(issuer: Issuer, tokens: BearerTokens) -> None:
    scope = "openid models:gpt-4o* models:local routes:/v1/*"
    caller = await tokens.caller(issuer.token(tenant="acme", scope=scope))
    assert caller is not None
    assert (caller.tenant, caller.name, caller.admin) == ("acme", "alice", False)
    assert caller.models == ("gpt-4o*", "local")
    assert caller.routes == ("/v1/*",)
    admin = await tokens.caller(issuer.token(scope=["admin"]))
    assert admin is not None
    assert admin.admin
    assert admin.tenant == admin.key_id == caller.key_id
    assert admin.models == admin.routes == ("*",)
    other = await tokens.caller(issuer.token(sub="bob"))
    assert other is not None
    assert other.tenant != admin.tenant


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another"},
        {"aud": None},
        {"iss": "https://another.example"},
        {"iss": None},
        {"exp": int(time.time()) - 120},
        {"exp": None},
        {"nbf": int(time.time()) + 3600},
        {"sub": None},
        {"tenant": "../etc"},
        {"tenant": 5},
        {"tenant": ""},
    ],
)
async def test_a_token_with_wrong_claims_is_nobodys(
    changes: dict[str, Any], issuer: Issuer, tokens: BearerTokens
) -> None:
    assert await tokens.caller(issuer.token(**changes)) is None


def _segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def test_a_token_does_not_choose_how_it_is_checked(issuer: Issuer, tokens: BearerTokens) -> None:
    claims, key = issuer.claims(), issuer.keys["first"]
    unsigned = f"{_segment({'alg': 'none', 'kid': 'first'})}.{_segment(claims)}."
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = f"{_segment({'alg': 'HS256', 'kid': 'first'})}.{_segment(claims)}"
    import hashlib
    import hmac

    signature = base64.urlsafe_b64encode(hmac.digest(pem, head.encode(), hashlib.sha256)).rstrip(b"=").decode()
    another = rsa.generate_private_key(65537, 2048)
    for forged in (
        unsigned,
        f"{unsigned}AA",
        f"{head}.{signature}",
        issuer.token(key=another),
        issuer.token(algorithm="RS512"),
        issuer.token(algorithm="PS256"),
        jwt.encode(claims, key, "RS256"),
        jwt.encode(claims, key, "RS256", headers={"kid": "first", "crit": ["x"], "x": 1}),
        issuer.token()[:-4] + "AAAA",
        "a.b.c",
        f"{_segment([])}.{_segment(claims)}.AAAA",
        f"{_segment({'alg': ['RS256'], 'kid': 'first'})}.{_segment(claims)}.AAAA",
        f"{_segment({'alg': 'ES256', 'kid': 'first'})}.{_segment(claims)}.AAAA",
    ):
        assert await tokens.caller(forged) is None, forged
    assert await tokens.caller(issuer.token()) is not None


async def test_an_elliptic_key_serves_its_own_algorithm(issuer: Issuer, tokens: BearerTokens) -> None:
    issuer.rotate("curve", curve=True)
    assert await tokens.caller(issuer.token(algorithm="ES256")) is not None


async def test_keys_are_fetched_once_and_again_when_they_rotate(
    issuer: Issuer, tokens: BearerTokens, clock: Clock
) -> None:
    old = issuer.token()
    for _ in range(5):
        assert await tokens.caller(old) is not None
    assert issuer.asked == 2  # its configuration and its keys
    issuer.rotate("second")
    assert await tokens.caller(issuer.token()) is None  # it was asked a moment ago, and had no such key
    clock.now += PAUSE_SECONDS
    assert await tokens.caller(issuer.token()) is not None
    assert await tokens.caller(old) is None  # the key that went is not honoured
    assert issuer.asked == 4


async def test_made_up_key_ids_are_not_requests_to_the_issuer(issuer: Issuer, tokens: BearerTokens) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    for number in range(20):
        assert await tokens.caller(issuer.token(f"made-up-{number}", key=stranger)) is None
    assert issuer.asked == 2


@pytest.mark.parametrize("how", ["down", "mute"])
async def test_without_its_issuer_known_keys_serve_and_unknown_ones_cannot_be_judged(
    how: str, issuer: Issuer, tokens: BearerTokens, clock: Clock
) -> None:
    known = issuer.token()
    assert await tokens.caller(known) is not None
    setattr(issuer, how, True)
    clock.now += FRESH_SECONDS + 1
    assert await tokens.caller(known) is not None
    issuer.rotate("second")
    clock.now += PAUSE_SECONDS
    for _ in range(3):
        with pytest.raises(IssuerUnavailable) as refused:
            await tokens.caller(issuer.token())
    assert isinstance(refused.value, AppError)
    assert refused.value.status == 503
    assert await tokens.caller(known) is not None
    setattr(issuer, how, False)
    clock.now += PAUSE_SECONDS
    assert await tokens.caller(issuer.token()) is not None


async def test_the_configuration_of_another_issuer_is_not_taken(issuer: Issuer, clock: Clock) -> None:
    tokens = BearerTokens(Jwks(f"{issuer.url}/", clock=clock), f"{issuer.url}/", AUDIENCE, ["RS256"], "tenant", "scope")
    with pytest.raises(IssuerUnavailable):
        await tokens.caller(issuer.token(iss=f"{issuer.url}/"))
    await tokens.aclose()
