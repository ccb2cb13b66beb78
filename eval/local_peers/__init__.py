"""Other engines on this CPU beside ours: servers of their own environment, and the file that they read."""
