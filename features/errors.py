"""Errors that a user can cause; the command line prints their message without a traceback."""

from collections.abc import Sequence

MAX_NAMED = 5
"""Maximum number of utterances that one message names."""


class InputError(Exception):
    """Invalid data, files or environment (exit code 1).

    The message says what must hold, what was found, and where.
    """


class UsageError(InputError):
    """Unknown, contradictory or incomplete options, found before any work starts (exit code 2)."""


def name_some(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first `MAX_NAMED` names of a list, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return separator.join(names[:MAX_NAMED]) + more
