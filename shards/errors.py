"""What a user got wrong, told apart from what went wrong."""

from __future__ import annotations


class InputError(ValueError):
    """A config, a path, or data on disk that the user can mend.

    The message is the whole report: it names what, where, and what is allowed. The command line
    prints it without a traceback and exits with code 2.
    """
