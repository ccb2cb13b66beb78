"""What this is called, and which version of it runs."""

NAME = "genai-project"
VERSION = "0.1.0"
