"""Texts to vectors, and queries and documents to relevance, on this machine's CPU."""
