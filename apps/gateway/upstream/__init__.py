"""Upstreams over HTTP whose bytes pass through."""
