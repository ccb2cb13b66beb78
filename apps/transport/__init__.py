"""An HTTP/1.1 client over pooled connections, under every call that the service makes to a configured server.

`client.py` sends a request's bytes over its pools of connections, `httpx_transport.py` does it for httpx and the openai
SDK over the same. `dialing.py` opens connections: direct or by a proxy of the environment, with TLS.
`connection.py` is one connection, `response.py` one answer on it, and its parser.
No redirects, no cookies, no decompression. Times are those of the loop's clock.
"""
