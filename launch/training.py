"""`dga train`: validate everything, then be a rank or start the ranks, then say what happened."""

from __future__ import annotations

import sys
from pathlib import Path

from launch.environment import rank_environment
from launch.exit_codes import KILLED_BY_USER, OK, PAUSED
from launch.local import run_ranks
from shards.errors import InputError
from toolkit.config import RunConfig
from toolkit.config_file import dump_config
from toolkit.history import EVENTS_FILE, RunHistory, load_history
from toolkit.inputs import RunInputs, load_inputs
from toolkit.run_folder import (
    CONFIG_NAME,
    LOGS_NAME,
    check_run_folder,
    locked,
    prepare_run_folder,
)


def check(config: RunConfig) -> int:
    """Validates config, data and run folder, changes nothing, and prints the resolved config."""
    inputs = load_inputs(config)
    check_run_folder(config, inputs)
    print(dump_config(config), end="")
    num_rows = sum(manifest.splits["train"].num_rows for manifest in inputs.domains)
    print(
        f"# {len(inputs.domains)} domains, {num_rows} training rows of {inputs.row_length} tokens",
        file=sys.stderr,
    )
    return OK


def train_here(config: RunConfig, *, is_quiet: bool = False) -> int:
    """Trains as one rank of a job that a launcher started, or starts the ranks on this machine.

    Shows the run when it is complete, unless `is_quiet`.
    """
    place = rank_environment()
    if place:
        if place.world_size != config.run.num_ranks:
            raise InputError(
                f"the launcher started {place.world_size} ranks, run.num_ranks is "
                f"{config.run.num_ranks}; make them equal"
            )
        from launch.rank import run_rank

        return run_rank(config, place)
    code = _run_here(config, load_inputs(config))
    if code == OK and not is_quiet:
        show_run(config.run.folder)
    return code


def _run_here(config: RunConfig, inputs: RunInputs) -> int:
    folder = config.run.folder
    with locked(folder) as lock:
        state = prepare_run_folder(config, inputs)
        if state and state.step >= config.run.num_steps:
            print(f"{folder} is complete at step {state.step}")
            return OK
        code = run_ranks(
            # The resolved config: the ranks see exactly what was validated here.
            [sys.executable, "-m", "launch.cli", "train", str(folder / CONFIG_NAME)],
            num_ranks=config.run.num_ranks,
            log_folder=folder / LOGS_NAME,
            held_files=[lock],
        )
    if code == PAUSED:
        print(f"paused; the same command continues {folder}", file=sys.stderr)
    if code == KILLED_BY_USER:
        print("\nkilled", file=sys.stderr)
    if code > 128:
        print(f"the same command continues {folder} from its last checkpoint", file=sys.stderr)
    return code


def show_run(folder: Path, *, baseline: Path | None = None, picture: Path | None = None) -> None:
    """Prints what moved in a run and why, and draws it."""
    from toolkit.explain import compare, explain
    from toolkit.picture import draw

    history = _history(folder)
    other = _history(baseline) if baseline else None
    print(explain(history))
    if other:
        try:
            print(f"\n{compare(history, other)}")
        except ValueError as error:
            raise InputError(f"{folder} beside {baseline}: {error}") from None
    path = picture or folder / "mixture.png"
    draw(history, path, baseline=other)
    print(f"\npicture: {path}")


def _history(folder: Path) -> RunHistory:
    try:
        return load_history(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} holds no run: it has no {EVENTS_FILE}") from None
    except ValueError as error:
        raise InputError(str(error)) from None
