"""Runs other servers' own API tests against this service; nothing of theirs is kept here."""
