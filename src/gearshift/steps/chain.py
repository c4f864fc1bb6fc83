"""The forwards around a module's own: hooks of accelerate and diffusers, functions that somebody set, our gates.

accelerate keeps the forward that its hook stands around on the module (`_old_forward`), diffusers in the hook's memory
(`original_forward`, or `forward` for hooks without one of their own). Both may be taken off in any order.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType, ModuleType
from typing import Any, NamedTuple

import torch

LOOKED_AT = 1000  # objects that are looked through for a link that somebody keeps in a way of their own
NOT_INTO = (torch.nn.Module, torch.Tensor, ModuleType, type, str, bytes)


class Link:
    """What gearshift puts into a module's chain of forwards.

    Attributes:
        wrapped_forward: the forward that it stands around, if that is not the class's own.
    """

    wrapped_forward: Callable[..., Any] | None = None


class ForwardSlot(NamedTuple):
    """A place that holds one of a module's forwards and may be given another."""

    holder: dict[str, Any]
    name: str

    @property
    def held(self) -> Any:
        return self.holder.get(self.name)

    def put(self, forward: Any, module: Any) -> None:
        """Hold another forward; None is the class's own."""
        if forward is None and self.holder is vars(module) and self.name == "forward":
            self.holder.pop("forward", None)
        elif forward is None and self.name != "wrapped_forward":
            self.holder[self.name] = type(module).forward.__get__(module)
        else:
            self.holder[self.name] = forward


def slots(module: Any) -> list[ForwardSlot]:
    """The places that hold a module's forwards, outermost first."""
    waiting, found, seen = deque([ForwardSlot(vars(module), "forward")]), [], set()
    while waiting:
        slot = waiting.popleft()
        if (id(slot.holder), slot.name) not in seen:
            seen.add((id(slot.holder), slot.name))
            found.append(slot)
            waiting.extendleft(reversed(_inside(slot.held, module)))
    return found


def innermost(module: Any) -> list[ForwardSlot]:
    """The places that hold the class's own forward, else the deepest one that holds somebody's."""
    found = slots(module)
    ends = [slot for slot in found if is_own(slot.held, module)]
    deepest = [slot for slot in found if not _inside(slot.held, module)]
    return ends or deepest[-1:]


def is_own(forward: Any, module: Any) -> bool:
    """Whether this is the forward of the module's class; so is None."""
    bound = isinstance(forward, MethodType) and forward.__self__ is module
    return forward is None or (bound and forward.__func__ is type(module).forward)


def links(module: Any) -> Iterator[Link]:
    """What stands in a module's chain of ours, outermost first; those that only others' functions lead to come last."""
    held = [slot.held for slot in slots(module)]
    yield from (each for each in held if isinstance(each, Link))
    for forward in held:
        if not (isinstance(forward, Link) or is_own(forward, module) or _inside(forward, module)):
            yield from _mentioned(forward, module)


def _inside(forward: Any, module: Any) -> list[ForwardSlot]:
    """Where a forward keeps those that it calls, as far as that is known."""
    if isinstance(forward, Link):
        return [ForwardSlot(vars(forward), "wrapped_forward")]
    if is_own(forward, module):
        return []
    while isinstance(forward, partial):
        forward = forward.func
    function = getattr(forward, "__func__", forward)
    kept = [getattr(getattr(forward, "__self__", None), "fn_ref", None), *_closure(function)]
    memories = [each for each in kept if hasattr(each, "original_forward")]
    found = [ForwardSlot(vars(memory), name) for memory in memories for name in ("original_forward", "forward")]
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    found += [ForwardSlot(vars(module), name) for name in names if "forward" in name and name != "forward"]
    return [slot for slot in found if callable(slot.held)]


def _closure(function: Any) -> Iterator[Any]:
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a variable without a value yet
            continue


def _mentioned(forward: Any, module: Any) -> Iterator[Link]:
    """Links of a module that somebody's forward holds: in its closure, its attributes, or theirs."""
    waiting, seen = deque([forward]), {id(forward)}
    while waiting and len(seen) < LOOKED_AT:
        for each in gc.get_referents(waiting.popleft()):
            if id(each) in seen or isinstance(each, NOT_INTO) or (isinstance(each, dict) and "__builtins__" in each):
                continue
            seen.add(id(each))
            if isinstance(each, Link):
                if getattr(each, "module", None) is module:
                    yield each
            else:
                waiting.append(each)
