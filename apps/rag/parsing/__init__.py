"""Bytes of an unknown file to passages, in a process of its own that a bomb may kill."""
