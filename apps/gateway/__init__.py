"""The gateway: a name goes in, an answer of one of its targets comes out, by routing, retries and fallback."""
