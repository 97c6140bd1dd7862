"""The page docs/settings.md, generated from the config."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from toolkit.config import DomainSection, RunConfig

INTRODUCTION = """\
# Settings

Every key of a run's TOML. A key without a default must be given. Keys marked * may change when a
run is continued; changing any other needs another `run.folder`. On the command line:
`section.key=value`.
"""


def settings_page() -> str:
    """The whole page as markdown."""
    return INTRODUCTION + "".join(_section(name, model) for name, model in _sections())


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, info in RunConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield name, info.annotation
        else:
            yield f"{name}.NAME", DomainSection


def _section(name: str, model: type[BaseModel]) -> str:
    rows = "".join(_row(key, info) for key, info in model.model_fields.items())
    heading = f"\n## [{name}]\n\n"
    return f"{heading}| key | default | allowed | meaning |\n|---|---|---|---|\n{rows}"


def _row(key: str, info: FieldInfo) -> str:
    extra = info.json_schema_extra
    mark = " *" if isinstance(extra, dict) and extra.get("free") else ""
    meaning = " ".join((info.description or "").split())
    return f"| `{key}`{mark} | {_default(info)} | {_allowed(info)} | {meaning} |\n"


def _default(info: FieldInfo) -> str:
    if info.default is PydanticUndefined:
        return ""
    return "none" if info.default is None else f"`{_toml(info.default)}`"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return str(value)


def _allowed(info: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(constraint, name):g}"
        for constraint in info.metadata
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        if hasattr(constraint, name)
    ]
    return ", ".join([_type_name(info.annotation), *bounds])


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{_toml(value)}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return _type_name(next(a for a in get_args(annotation) if a is not type(None)))
    names = {Path: "path", str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(annotation) or {dict: "table", tuple: "two numbers"}[origin]


if __name__ == "__main__":
    print(settings_page(), end="")
