"""Puts the app together: the only place that names concrete classes."""
