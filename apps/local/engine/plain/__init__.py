"""The plain engine: transformers' own generate, for every checkpoint that transformers knows."""
