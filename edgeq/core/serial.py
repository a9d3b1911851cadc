"""Specs to plain JSON and back: strict about keys, stable in form.

Every dataclass that is written to disk derives from `Spec`; a NamedTuple may be a field of one. The JSON form has the
field names as keys, sorted, no spaces to spare; two equal specs give the same bytes and so the same digest.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import types
import typing
from typing import Any, ClassVar, TypeVar

from edgeq.core.errors import InputError, describe_choices

S = TypeVar("S", bound="Spec")


class Spec:
    """Base of the frozen dataclasses that travel between rooms and to disk."""

    schema: ClassVar[int] = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form: only dict, list, str, int, float, bool and None."""
        return {"schema": self.schema, **_plain_fields(self)}

    @classmethod
    def from_dict(cls: type[S], data: dict[str, Any]) -> S:
        """Return the spec whose plain form is `data`.

        Raises:
            InputError: for an unknown or missing key, another schema, or a value of the wrong kind.
        """
        if not isinstance(data, dict):
            raise _wrong(cls, f"a JSON object was expected, found {type(data).__name__}")
        data = dict(data)
        schema = data.pop("schema", cls.schema)
        if schema != cls.schema:
            raise _wrong(cls, f"schema {schema} is not {cls.schema}")
        return typing.cast("S", _build(cls, data))

    def digest(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of the JSON form."""
        return digest_of(self.to_dict())


def digest_of(value: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no spare spaces and no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = _plain_fields(value)
        kind = getattr(type(value), "kind", None)
        return {"kind": kind, **fields} if isinstance(kind, str) else fields
    if isinstance(value, tuple) and hasattr(value, "_asdict"):  # a NamedTuple
        return {key: _plain(item) for key, item in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _plain_fields(spec: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(spec, field.name)) for field in dataclasses.fields(spec)}


def _wrong(cls: type, what: str) -> InputError:
    return InputError(
        f"cannot read {cls.__name__}: {what}",
        why="the file was written by another version of edgeq, or changed by hand",
        mend="make it anew with this version, or mend the field",
    )


def _build(cls: Any, data: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    if dataclasses.is_dataclass(cls):
        fields = [field.name for field in dataclasses.fields(cls)]
        required = [
            field.name
            for field in dataclasses.fields(cls)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
    else:  # a NamedTuple
        fields = list(cls._fields)
        required = [name for name in fields if name not in cls._field_defaults]
    for key in data:
        if key not in fields:
            raise _wrong(cls, f"unknown key '{key}'; {describe_choices(key, fields)}")
    missing = [name for name in required if name not in data]
    if missing:
        raise _wrong(cls, f"missing key {', '.join(missing)}")
    return cls(**{key: _typed(cls, key, hints[key], item) for key, item in data.items()})


def _typed(cls: type, key: str, hint: Any, value: Any) -> Any:
    """Return `value` as the kind of thing that `hint` names."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _typed_union(cls, key, args, value)
    if origin is tuple:
        return _typed_tuple(cls, key, args, value)
    if origin is dict and isinstance(value, dict):
        return {name: _typed(cls, key, args[1], item) for name, item in value.items()}
    if origin is None and isinstance(hint, type):
        if issubclass(hint, enum.Enum):
            try:
                return hint(value)
            except ValueError as error:
                raise _wrong(cls, f"'{key}': {error}") from error
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            kind = getattr(hint, "kind", None)
            inner = dict(value)
            if isinstance(kind, str) and inner.pop("kind", kind) != kind:
                raise _wrong(cls, f"'{key}' has the unknown kind {value['kind']!r}")
            return _build(hint, inner)
        if hasattr(hint, "_fields") and isinstance(value, dict):
            return _build(hint, value)
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
            return value
    raise _wrong(
        cls, f"'{key}' has the value {value!r}, which is no {getattr(hint, '__name__', hint)}"
    )


def _typed_tuple(cls: type, key: str, args: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(cls, f"'{key}' must be a list")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_typed(cls, key, args[0], item) for item in value)
    if len(args) != len(value):
        raise _wrong(cls, f"'{key}' must have {len(args)} items, has {len(value)}")
    return tuple(_typed(cls, key, arg, item) for arg, item in zip(args, value, strict=True))


def _typed_union(cls: type, key: str, args: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in args:
        return None
    if isinstance(value, dict) and "kind" in value:
        for arg in args:
            if getattr(arg, "kind", None) == value["kind"]:
                return _typed(cls, key, arg, value)
        raise _wrong(cls, f"'{key}' has the unknown kind {value['kind']!r}")
    for arg in args:
        if arg is type(None):
            continue
        try:
            return _typed(cls, key, arg, value)
        except InputError:
            continue
    raise _wrong(cls, f"'{key}' has the value {value!r}")
