"""Ollama's API, over the same models as /v1: shapes in and out, and nothing else."""
