"""OpenAI's API, served from any provider: bodies are read, answers relayed."""
