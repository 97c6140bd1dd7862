"""The folder of a run: where things are, and whether a run may be continued in it.

- `config.toml`: the resolved config
- `events.jsonl`: everything that happened
- `checkpoints/`: folders `step-N`
- `logs/`: one file per rank but the first, which writes to the terminal
- `wandb/`: tracking, also offline
- `lock`: held while a process trains here
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shards.errors import InputError
from toolkit.checkpoint_files import RunState, newest_whole, read_state
from toolkit.config import RunConfig
from toolkit.config_file import dump_config, load_config
from toolkit.config_rules import meaning_changes
from toolkit.history import EVENTS_FILE
from toolkit.inputs import RunInputs

CONFIG_NAME = "config.toml"
CHECKPOINTS_NAME = "checkpoints"
LOGS_NAME = "logs"
LOCK_NAME = "lock"


def prepare_run_folder(config: RunConfig, inputs: RunInputs) -> RunState | None:
    """Writes the resolved config into the run's folder, if the run may go on there.

    Returns and raises what `check_run_folder` does, and InputError if the folder cannot be written.
    """
    state = check_run_folder(config, inputs)
    folder = config.run.folder
    try:
        (folder / LOGS_NAME).mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{CONFIG_NAME}.partial"
        temporary.write_text(dump_config(config), encoding="utf-8")
        os.replace(temporary, folder / CONFIG_NAME)
    except OSError as error:
        raise InputError(f"run.folder {folder} cannot be written: {error.strerror}") from None
    return state


def check_run_folder(config: RunConfig, inputs: RunInputs) -> RunState | None:
    """The state that the run would continue from, None when it would start from its first step.

    Raises:
        InputError: the folder belongs to a run that means something else, the shards changed, no
            checkpoint in it is whole, or events are missing.
    """
    folder = config.run.folder
    if not (folder / CONFIG_NAME).exists():
        return None
    changes = meaning_changes(load_config(folder / CONFIG_NAME), config)
    if changes:
        lines = "".join(f"\n  {change}" for change in changes)
        raise InputError(
            f"{folder} holds a run with another config; undo this or choose another run.folder:"
            f"{lines}"
        )
    checkpoint = newest_whole(folder / CHECKPOINTS_NAME)
    if checkpoint is None:
        return None
    state = read_state(checkpoint)
    check_same_shards(state, inputs.fingerprints(config))
    events = folder / EVENTS_FILE
    if not events.exists() or events.stat().st_size < state.events_bytes:
        raise InputError(f"{events} is shorter than at step {state.step}; restore it")
    return state


def check_same_shards(state: RunState, fingerprints: dict[str, str]) -> None:
    """Raises InputError if a domain's shards are not those that the run has trained on so far."""
    changed = [name for name, value in state.shards.items() if fingerprints.get(name) != value]
    if changed:
        raise InputError(
            f"the shards of {', '.join(changed)} changed since step {state.step} of this run; "
            "restore them or choose another run.folder"
        )


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Creates the run's folder if need be and holds it; the kernel lets go if this process dies.

    Yields a descriptor: a process that inherits it holds the folder as well.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / LOCK_NAME).open("a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"run.folder {folder}: another process is training in it") from None
        except OSError as error:
            raise InputError(f"run.folder {folder} cannot be written: {error.strerror}") from None
        yield file.fileno()
