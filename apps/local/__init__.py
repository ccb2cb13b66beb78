"""The local model on the CPU. torch and transformers are imported only when it loads, in its own thread."""
