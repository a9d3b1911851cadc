"""A named table of implementations, filled by decorator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from edgeq.core.errors import EdgeqBug, InputError, describe_choices

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to implementations of one kind (`kind` is the word used in messages)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, *names: str) -> Callable[[T], T]:
        """Return a decorator that files its argument under `names`.

        Raises:
            EdgeqBug: if a name is taken.
        """

        def add(entry: T) -> T:
            for name in names:
                if name in self._entries:
                    msg = f"{self.kind} '{name}' is registered twice"
                    raise EdgeqBug(msg)
                self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """Return the entry called `name`.

        Raises:
            InputError: if there is none; the nearest names are offered.
        """
        if name not in self._entries:
            raise InputError(
                f"unknown {self.kind} '{name}'",
                why=f"edgeq has no {self.kind} of that name",
                mend=describe_choices(name, self._entries),
            )
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """Return all names in alphabetical order."""
        return tuple(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
