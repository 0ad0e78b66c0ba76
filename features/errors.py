"""Errors that a user can cause; the command line prints their message without a traceback."""


class InputError(Exception):
    """Invalid data, files or environment (exit code 1).

    The message says what must hold, what was found, and where.
    """


class UsageError(InputError):
    """Unknown, contradictory or incomplete options, found before any work starts (exit code 2)."""
