"""Queries and documents to relevance, on this machine's CPU."""
