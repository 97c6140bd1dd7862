"""What a user got wrong, told apart from what went wrong."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """A config, a path, or data on disk that the user can mend.

    The message is the whole report: it names what, where, and what is allowed. The command line
    prints it without a traceback and exits with code 2.
    """

    @classmethod
    def listing(cls, problems: Sequence[str], *, where: str) -> InputError:
        """All `problems` in one report, a line each."""
        noun = "problem" if len(problems) == 1 else "problems"
        lines = "".join(f"\n  {problem}" for problem in problems)
        return cls(f"{len(problems)} {noun} {where}:{lines}")
