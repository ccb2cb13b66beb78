"""Why the batching engine, its kernels or its draft model cannot be had; for the first two something else serves."""


class UnsupportedModel(Exception):
    """The checkpoint is not of the shape that this engine runs; the message says what differs."""


class NoKernel(Exception):
    """The kernels cannot be used on this machine; the message says what is missing."""


class UnusableDraft(Exception):
    """The model that is to draft cannot; the message says why."""
