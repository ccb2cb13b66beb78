"""What runs a local checkpoint: the port, the batching engine with its kernels, and transformers' own generate."""
