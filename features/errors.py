"""The two errors that a user can cause; the command line prints their message without a traceback."""


class InputError(Exception):
    """Data, files or the environment are not as they must be: what must hold, what was found, where (exit 1)."""


class UsageError(InputError):
    """Options are unknown, contradictory or incomplete, found before any work (exit 2)."""
