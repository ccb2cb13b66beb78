"""Floor 1: what answers a chat request, and the wrappers that add behaviour to it. Knows core only."""
