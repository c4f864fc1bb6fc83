"""What a user gives as `data`: examples of calls, however they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gearshift.core.errors import BadRecipe, quoted


def examples(data: Any) -> Iterable[Any] | None:
    """Examples that can be gone through more than once; None if there are none.

    A dict or a string is one example. An iterator is read as far as it is needed, and what was read is kept.

    Raises:
        BadRecipe: for what cannot be gone through.
    """
    if data is None or isinstance(data, Replayed):
        return data
    if isinstance(data, (str, Mapping)):
        return [data]
    if isinstance(data, Iterator):
        return Replayed(data)
    if not isinstance(data, Iterable) or isinstance(data, (bytes, type)):
        raise BadRecipe([f"data must be a list of what the model takes. Got {quoted(data)} instead."])
    return data


def first(data: Any) -> Any:
    """The first example; None if there is none.

    Raises:
        BadRecipe: as in `examples`, and for a dict whose keys are not names of arguments.
    """
    found = examples(data)
    one = None if found is None else next(iter(found), None)
    if isinstance(one, Mapping) and not all(isinstance(name, str) for name in one):
        raise BadRecipe([f"An example in data is a dict of arguments by their names. Got {quoted(one)} instead."])
    return one


class Replayed:
    """An iterator that can be gone through again."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source, self._kept = source, list[Any]()

    def __iter__(self) -> Iterator[Any]:
        place = 0
        while True:
            if place == len(self._kept):
                try:
                    self._kept.append(next(self._source))
                except StopIteration:
                    return
            yield self._kept[place]
            place += 1
