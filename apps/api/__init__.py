"""Floor 3: HTTP. The only floor that knows FastAPI."""
