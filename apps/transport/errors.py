"""What goes wrong with a call over HTTP; where a time runs out, it is the builtin TimeoutError."""


class HttpFailure(Exception):
    """The base of them all. No message repeats what a server has sent."""


class BadRequest(HttpFailure):
    """An address or a header that cannot be sent."""


class ConnectionFailed(HttpFailure):
    """No connection came about: the name, the network, or the server's certificate."""


class Cut(HttpFailure):
    """The connection was lost, or its framing, before the answer was whole."""


class ProtocolError(HttpFailure):
    """What came instead of an answer's head is not HTTP/1.1, or more of it than anybody needs."""
