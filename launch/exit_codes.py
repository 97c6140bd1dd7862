"""How the commands end, for scripts and schedulers."""

from __future__ import annotations

OK = 0
FAILED = 1
BAD_INPUT = 2
"""Something the user can mend; said in one sentence on standard error."""
PAUSED = 75
"""A signal asked for it: a checkpoint was written, the same command continues (EX_TEMPFAIL)."""
KILLED_BY_USER = 130
"""An interrupt while there was nothing to save, or a second one, which kills the ranks at once."""
