"""The one exception that means: the caller asked for something that cannot be done."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input, found before any work started; the message names field, value and what is allowed.

    The command line prints it as one line and exits with 2.
    """
