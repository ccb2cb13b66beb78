"""Floor 0: the words of the field. Standard library and pydantic only; knows no vendor and no HTTP."""
