"""Why the batching engine, or its kernels, cannot be had. Neither is the end: something else serves then."""


class UnsupportedModel(Exception):
    """The checkpoint is not of the shape that this engine runs; the message says what differs."""


class NoKernel(Exception):
    """The kernels cannot be used on this machine; the message says what is missing."""
