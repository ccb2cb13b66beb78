"""What a command ends with where it cannot do its work."""


class CommandFailure(Exception):
    """One line for whoever typed the command."""
