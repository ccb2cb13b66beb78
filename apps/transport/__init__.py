"""An HTTP/1.1 client over pooled connections, under every call that the service makes to a configured server.

`client.py` sends a request's bytes, `httpx_transport.py` does it for httpx and the openai SDK; both take connections
from `pool.py`, which `dialing.py` opens: direct or by a proxy of the environment (`proxies.py`), with the certificates
of `trust.py`. `connection.py` is one connection, `parsing.py` its parser, `response.py` one answer on it.
No redirects, no cookies, no decompression. Times are those of the loop's clock.
"""
