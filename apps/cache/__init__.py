"""The response cache: answers kept for the next one who asks the same."""
