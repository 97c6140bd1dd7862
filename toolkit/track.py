"""What happened, written down: one JSON object per event, and the same numbers in wandb.

The events file is the source of truth and is written on rank 0 alone. wandb is drawn from it; if
wandb fails, the run goes on without.
"""

from __future__ import annotations

import json
import math
import netrc
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlparse

from typing_extensions import Self

from toolkit.config import RunConfig
from toolkit.history import EVENTS_FILE

WANDB_ID_NAME = "wandb_id"
WANDB_FINISH_SECONDS = 60


class Tracker:
    """Writes events; on ranks other than 0 it does nothing.

    Args:
        events_bytes: how much of an existing events file is kept; what follows belongs to steps
            that will be taken again.
    """

    def __init__(self, config: RunConfig, *, is_writer: bool, events_bytes: int = 0) -> None:
        self._file = None
        self._wandb: Any = None
        if is_writer:
            path = config.run.folder / EVENTS_FILE
            self._file = path.open("ab")
            self._file.truncate(events_bytes)
            self._file.seek(events_bytes)
            self._wandb = _start_wandb(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file:
            self._file.close()
        if self._wandb:
            self._guarded(lambda: self._wandb.finish(exit_code=0 if kind is None else 1))

    def log(self, kind: str, *, step: int, num_tokens: int, **fields: Any) -> None:
        """Appends one event. Numbers that are not finite become null: JSON has no name for them."""
        if self._file is None:
            return
        event = {"kind": kind, "step": step, "num_tokens": num_tokens} | fields
        line = json.dumps(_finite(event), ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        if self._wandb and kind in ("step", "evaluation", "update"):
            self._guarded(lambda: self._wandb.log(_series(event)))

    def position(self) -> int:
        """Bytes of events on disk; what a checkpoint notes to continue from."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            print(f"wandb failed and is off for the rest of this run: {error}", file=sys.stderr)
            self._wandb = None


def _start_wandb(config: RunConfig) -> Any:
    mode = config.tracking.wandb
    if mode == "off":
        return None
    import wandb

    if mode == "auto" and "WANDB_MODE" not in os.environ:
        mode = "online" if _has_wandb_key() else "offline"
    folder = config.run.folder
    try:
        run = wandb.init(
            project=config.tracking.project,
            name=config.tracking.name or folder.name,
            id=_wandb_id(folder),
            resume="allow",
            dir=str(folder),
            mode=None if mode == "auto" else mode,
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                # Without a limit, a run whose server is gone never ends.
                finish_timeout=WANDB_FINISH_SECONDS,
            ),
        )
    except Exception as error:  # settings from the environment raise errors of other libraries
        print(f"wandb did not start and is off for this run: {error}", file=sys.stderr)
        return None
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run


def _wandb_id(folder: Path) -> str:
    """The run's id in wandb, made once and kept beside the run."""
    path = folder / WANDB_ID_NAME
    if not path.exists():
        partial = path.with_name(f"{WANDB_ID_NAME}.partial")
        partial.write_text(secrets.token_hex(4), encoding="utf-8")
        os.replace(partial, path)
    return path.read_text(encoding="utf-8").strip()


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host is not None and netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _series(event: dict[str, Any]) -> dict[str, float]:
    """The event's numbers under wandb names: kind/field, or kind/field/domain."""
    series: dict[str, float] = {"step": event["step"], "num_tokens": event["num_tokens"]}
    for field, value in event.items():
        named = value.items() if isinstance(value, dict) else [(None, value)]
        for name, number in named:
            if isinstance(number, (int, float)) and field not in series:
                key = f"{event['kind']}/{field}"
                series[f"{key}/{name}" if name else key] = number
    return series


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
