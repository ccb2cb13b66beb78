"""The MCP server's route and its tools."""
