"""A TOML file to a validated `RunConfig`, with every problem reported at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from shards.errors import InputError
from toolkit.config import DomainSection, RunConfig
from toolkit.config_rules import check_together

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a TOML file, applies `section.key=value` overrides, validates everything.

    Raises:
        InputError: with every problem found, one per line, naming key, value and what is allowed.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"config {path} does not exist") from None
    except OSError as error:
        raise InputError(f"config {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"config {path} is not TOML: {error}") from None
    for override in overrides:
        _apply_override(tree, override)
    return parse_config(tree, where=str(path))


def parse_config(tree: dict[str, Any], *, where: str) -> RunConfig:
    """Validates a config tree; raises InputError with every problem found."""
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors()]
    else:
        problems = check_together(config)
        if not problems:
            return config
    raise InputError.listing(problems, where=f"in {where}")


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or len(parts) < 2 or not all(parts):
        raise InputError(f"override {override!r} must have the form section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise InputError(f"override {override!r}: {part} is a value, not a section")
    tree[parts[-1]] = value


def _describe(problem: Any) -> str:
    """One validation problem as `key = value: what is allowed`."""
    location = [str(part) for part in problem["loc"] if part != "[key]"]
    key = ".".join(location)
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key{_suggestion(location)}"
        case "missing":
            return f"{key}: missing"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}"
        case _:
            message = problem["msg"][0].lower() + problem["msg"][1:]
            return f"{key} = {_shown(problem['input'])}: {message}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _suggestion(location: Sequence[str]) -> str:
    """Where the writer of an unknown key may have wanted to go."""
    *parents, name = location
    here = _fields_at(parents)
    if close := get_close_matches(name, here, n=1):
        return f"; did you mean {'.'.join([*parents, *close])}?"
    for section, fields in _sections():
        if close := get_close_matches(name, fields, n=1, cutoff=0.8):
            return f"; did you mean {section}.{close[0]}?"
    return f"; known here: {', '.join(here)}" if here else ""


def _fields_at(path: Sequence[str]) -> dict[str, FieldInfo]:
    if not path:
        return RunConfig.model_fields
    if path[0] == "domains":
        return DomainSection.model_fields
    return dict(_sections()).get(path[0], {})


def _sections() -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    for name, info in RunConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield name, info.annotation.model_fields


def dump_config(config: RunConfig) -> str:
    """The whole config as TOML, defaults included; `load_config` reads it back equal."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
