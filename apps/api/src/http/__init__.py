"""HTTP for every audience: JSON bodies, errors, streams, middleware."""
