"""Texts to vectors, on this machine's CPU."""
