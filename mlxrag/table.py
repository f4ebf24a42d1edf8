"""Tables of settings: frozen values whose fields know their limits and their line of help.

A table is written as a class with annotated fields, checked when it is made, and can be copied with
changes, turned into a dictionary or JSON and back.  It does what pydantic's models would do for us;
pydantic takes a fifth of a second to import, as long as everything else before a first answer.

Knows nothing of files, flags and the settings themselves.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

MISSING: Any = object()


@dataclass(frozen=True, slots=True)
class Knob:
    """One adjustable value.

    Attributes:
        default: its value unless given.
        description: one line of help.
        ge, gt, le, lt: limits of a number.
        annotation: its type; set when the table is first used.
    """

    default: Any
    description: str = ""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    annotation: Any = None


def Field(  # noqa: N802  # reads as part of the declaration, as in pydantic
    default: Any,
    *,
    description: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """Declare one adjustable value: its default, one line of help, its limits."""
    return Knob(default, description, ge, gt, le, lt)


class Invalid(ValueError):
    """Values that a table does not take; `faults` has (key, what is wrong, the value) for each."""

    def __init__(self, table: str, faults: list[tuple[str, str, Any]]) -> None:
        super().__init__("; ".join(f"{table}.{key}: {what}, not {value!r}" for key, what, value in faults))
        self.faults = faults


class _Meta(type):
    @property
    def keys(cls) -> tuple[str, ...]:
        """The keys, in the order they are declared."""
        return tuple(_declared(cls))

    @property
    def model_fields(cls) -> dict[str, Knob]:
        """The knobs by key, in the order they are declared."""
        return _knobs(cls)


class Table(metaclass=_Meta):
    """A frozen group of settings that refuses keys it does not have.

    Raises:
        Invalid: a key it does not have, or a value of another type or beyond its limits; all faults at once.
    """

    def __init__(self, **values: Any) -> None:
        faults: list[tuple[str, str, Any]] = []
        for key, knob in _declared(type(self)).items():
            object.__setattr__(self, key, knob.default)
        # Most tables are made without values; then nobody needs to know the types.
        knobs = _knobs(type(self)) if values else {}
        for key, value in values.items():
            if key not in knobs:
                faults.append((key, "there is no such key", value))
                continue
            try:
                checked = _fit(value, knobs[key].annotation)
                _limits(checked, knobs[key])
            except ValueError as error:
                faults.append((key, str(error), value))
                continue
            object.__setattr__(self, key, checked)
        if faults:
            raise Invalid(type(self).__name__, faults)

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__}.{key} cannot be changed; make a copy with model_copy")

    __delattr__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for key in _declared(type(self)):
            yield key, getattr(self, key)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and tuple(self) == tuple(other)  # type: ignore[call-overload,unused-ignore]

    def __hash__(self) -> int:
        return hash((type(self), tuple(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), dict(self))

    @classmethod
    def model_validate(cls, values: Mapping[str, Any]) -> Self:
        """Make a table from a mapping."""
        return cls(**values)

    @classmethod
    def model_validate_json(cls, text: str | bytes) -> Self:
        """Make a table from a JSON object."""
        return cls(**json.loads(text))

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self:
        """Return a copy with other values."""
        return type(self)(**{**dict(self), **(update or {})})

    def model_dump(self, *, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Return the values by key; tables within become dictionaries."""
        return {
            key: value.model_dump() if isinstance(value, Table) else value
            for key, value in self
            if (include is None or key in include) and (exclude is None or key not in exclude)
        }

    def model_dump_json(self, *, include: Any = None, exclude: Any = None) -> str:
        """Return the values as a JSON object."""
        return json.dumps(self.model_dump(include=include, exclude=exclude), separators=(",", ":"), ensure_ascii=False)


def _remake(cls: type[Table], values: dict[str, Any]) -> Table:
    return cls(**values)


@cache
def _declared(cls: type) -> dict[str, Knob]:
    """Read the declarations of a table, but not their types."""
    found: dict[str, Knob] = {}
    for key in vars(cls).get("__annotations__", {}):
        if not key.startswith("_"):
            given = vars(cls).get(key)
            found[key] = given if isinstance(given, Knob) else Knob(given)
    return found


@cache
def _knobs(cls: type) -> dict[str, Knob]:
    """Read the declarations of a table with their types; takes a while, so only when they are needed."""
    types_of = get_type_hints(cls, dict(vars(sys.modules[cls.__module__])))
    return {key: replace(knob, annotation=types_of[key]) for key, knob in _declared(cls).items()}


def _fit(value: Any, kind: Any) -> Any:
    """Return the value as the type that is wanted; text from the environment is read as that type.

    Raises:
        ValueError: says what the value should be.
    """
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        rest = [one for one in get_args(kind) if one is not type(None)]
        if value is None and len(rest) < len(get_args(kind)):
            return None
        for i, one in enumerate(rest):
            try:
                return _fit(value, one)
            except ValueError:
                if i == len(rest) - 1:
                    raise
    if origin is Literal:
        choices = get_args(kind)
        for choice in choices:
            if value == choice and type(value) is type(choice):
                return value
            if isinstance(value, str) and isinstance(choice, int) and value == str(choice):
                return choice
        raise ValueError(f"input should be one of {', '.join(str(choice) for choice in choices)}")
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise ValueError("input should be a list")
        return tuple(_fit(one, get_args(kind)[0]) for one in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError("input should be a table")
        key_kind, value_kind = get_args(kind)
        return {_fit(k, key_kind): _fit(v, value_kind) for k, v in value.items()}
    if isinstance(kind, type) and issubclass(kind, Table):
        if isinstance(value, kind):
            return value
        if isinstance(value, Mapping):
            return kind(**value)
        raise ValueError("input should be a table")
    return _plain(value, kind)


def _plain(value: Any, kind: Any) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        word = str(value).strip().lower() if isinstance(value, str | int) else ""
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off"):
            return False
        raise ValueError("input should be true or false")
    if kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str):
            try:
                return int(value.strip())
            except ValueError:
                pass
        raise ValueError("input should be a whole number")
    if kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                pass
        raise ValueError("input should be a number")
    if kind is str:
        if isinstance(value, str):
            return value
        raise ValueError("input should be a text")
    if isinstance(value, kind):
        return value
    raise ValueError(f"input should be a {kind.__name__}")


def _limits(value: Any, knob: Knob) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if value != value:
        raise ValueError("input should be a number")
    if knob.ge is not None and value < knob.ge:
        raise ValueError(f"input should be greater than or equal to {knob.ge:g}")
    if knob.gt is not None and value <= knob.gt:
        raise ValueError(f"input should be greater than {knob.gt:g}")
    if knob.le is not None and value > knob.le:
        raise ValueError(f"input should be less than or equal to {knob.le:g}")
    if knob.lt is not None and value >= knob.lt:
        raise ValueError(f"input should be less than {knob.lt:g}")
