"""The one exception that a user, not a developer, is meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence: what is wrong, where, and what to do. The command line
    prints it and exits with status 2.
    """
