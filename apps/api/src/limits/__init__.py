"""Rate limits by address and by key."""
