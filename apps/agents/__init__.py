"""Floor 2: agents: tools and the loop over the ChatModel port. Knows core only; its vendors are pydantic-ai and mcp."""
