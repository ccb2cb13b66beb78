"""The routes /generate and /local/generate."""
