"""Keys and usage for operators."""
