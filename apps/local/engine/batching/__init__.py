"""The batching engine: many answers at a time from one Llama-shaped checkpoint, on kernels of its own.

`opening.open_engine` is the door. What it cannot run raises UnsupportedModel, and the caller serves it another way.
"""
