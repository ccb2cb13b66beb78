"""What the API does for agents and for MCP clients beside the routes: bodies, answers, frames, the MCP server."""
