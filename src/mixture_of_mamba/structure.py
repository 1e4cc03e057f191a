"""Nested plain values to dataclasses: names and types are checked, and errors name the field."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["field_types", "flattened", "nearest", "structure", "unknown_fields"]

T = TypeVar("T")

#: Types of single values, and what messages call them.
_WORDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    dict: "mapping",
    Mapping: "mapping",
    list: "list",
}
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def structure(kind: type[T], plain: Any, name: str = "") -> T:
    """A dataclass from a mapping of its fields; nested dataclasses from nested mappings.

    Texts are read as the type of the field, so that the values of flags need no parser of their
    own: "8" for a whole number, "null" for a field that may be None.

    Args:
        plain: field -> value; what is left out takes its default.
        name: dotted name of the whole, for messages.

    Raises:
        ValueError: an unknown field, a value of another type, or one that the class refuses.
    """
    if not isinstance(plain, Mapping):
        raise ValueError(f"{name} is {plain!r}, which is no mapping")
    prefix = f"{name}." if name else ""
    hints = get_type_hints(kind)
    valid = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if problem := unknown_fields(plain, valid, name or kind.__name__):
        choice = "" if "did you mean" in problem else f"; choose from {', '.join(valid)}"
        raise ValueError(problem + choice)
    return kind(**{key: _value(hints[key], v, prefix + key) for key, v in plain.items()})


def field_types(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of all fields, those of nested dataclasses in place of these."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        if is_dataclass(hint):
            yield from field_types(hint, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            yield prefix + field.name, hint


def flattened(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all entries of nested mappings."""
    for name, value in plain.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _value(hint: Any, value: Any, name: str) -> Any:
    if is_dataclass(hint):
        return value if isinstance(value, hint) else structure(hint, value or {}, name)  # type: ignore[arg-type]
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if NoneType in kinds and (value is None or value in ("null", "")):
        return None
    for kind in (k for k in kinds if k is not NoneType):
        found = _as(kind, value, name)
        if found is not None:
            return found
    plain = next(get_origin(k) or k for k in kinds if k is not NoneType)
    raise ValueError(f"{name} is {value!r}, which is no {_WORDS.get(plain, plain)}")


def _as(kind: Any, value: Any, name: str) -> Any:
    """The value as a type; None where it is none of this type."""
    origin = get_origin(kind) or kind
    if origin is Literal:
        return value if isinstance(value, str) else None  # the class says what may be chosen
    if origin is bool:
        return value if isinstance(value, bool) else _BOOLEANS.get(str(value).lower())
    if origin in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            return None
        if origin is int and isinstance(value, float):
            return None
        try:
            return origin(value)
        except ValueError:
            return None
    if origin is str:
        return value if isinstance(value, str) else None
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            return None
        of = (*get_args(kind), Any)[0]
        return origin(v if of is Any else _value(of, v, name) for v in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return None
        of = get_args(kind)[1] if get_args(kind) else Any
        return {str(k): v if of is Any else _value(of, v, f"{name}.{k}") for k, v in value.items()}
    return value


def nearest(name: str, valid: Iterable[str]) -> str:
    """ " (did you mean X?)" where a valid dotted name is near, else an empty string."""
    options = list(valid)
    last = {option.rpartition(".")[2]: option for option in reversed(options)}
    short = name.rpartition(".")[2]
    found = [last[short]] if short in last else difflib.get_close_matches(name, options, 1, 0.75)
    found = found or [last[match] for match in difflib.get_close_matches(short, last, 1, 0.7)]
    return f" (did you mean {found[0]}?)" if found else ""


def unknown_fields(plain: Mapping[str, Any], valid: list[str], source: str) -> str | None:
    """An error for the dotted names of nested values that are not valid; None where all are.

    Args:
        valid: dotted names; the names below one of them, such as entries of a mapping, are valid.
    """
    unknown = list(_unknown(plain, valid, ""))
    if not unknown:
        return None
    named = ", ".join(f"{key!r}{nearest(key, valid)}" for key in unknown)
    return f"{source} has unknown field{'s' if len(unknown) > 1 else ''} {named}"


def _unknown(plain: Mapping[str, Any], valid: list[str], prefix: str) -> Iterator[str]:
    for key, value in plain.items():
        name = f"{prefix}{key}"
        if name in valid:
            continue
        inside = any(other.startswith(f"{name}.") for other in valid)
        if isinstance(value, Mapping) and (inside or not prefix):
            yield from _unknown(value, valid, f"{name}.")
        elif not inside:
            yield name
