"""Reranking over HTTP, in the shape that Cohere and Jina share."""
