"""An HTTP/1.1 client for the gateway's path: POST over pooled connections, and nothing that this does not need.

No redirects, no cookies, no proxies, no decompression. `client.py` is the way in, `origin.py` says where a call goes,
`dial.py` gets there, `connection.py` is one connection, `parsing.py` its parser and `response.py` one answer on it.
Times are those of the loop's clock.
"""
