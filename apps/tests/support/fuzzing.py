"""Runs schemathesis against a server."""

HOOKS = """
import schemathesis

KEYS = {"code", "message", "status", "field", "details"}
CODES = set(%(codes)r)


@schemathesis.check
def every_error_is_the_envelope(ctx, response, case):
    if response.status_code < 400 or case.method == "HEAD":
        return
    assert response.headers["content-type"] == ["application/json"], response.headers
    error = response.json()["error"]
    assert KEYS <= set(error), error
    assert error["code"] in CODES, error
    assert error["status"] == response.status_code, error
    assert response.headers.get("x-request-id"), response.headers


@schemathesis.check
def no_server_error_but_the_contracts(ctx, response, case):
    assert response.status_code < 500 or response.status_code == 503, response.status_code
"""
