"""Order and conflict, derived from facts: pure functions, no list of pairs anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import product

from gearshift.core.facts import Facts

Named = tuple[str, Facts]


def conflict(a: Named, b: Named) -> str | None:
    """Why two algorithms cannot be in one recipe, as a sentence; None if they can.

    Symmetric: the answer does not depend on the order of the arguments.
    """
    (first, f), (second, g) = sorted([a, b], key=lambda named: (named[1].stage, named[0]))
    if first == second:
        return f"{first} is in the recipe twice; use it once."
    for slot in sorted(f.occupies & g.occupies):
        return f"{first} and {second} both set {slot.value}; use one of them."
    for trait in sorted(f.removes & g.needs):
        return f"{second} needs {trait.value}, which {first} removes before it; use one of them."
    if not f.kinds & g.kinds:
        return f"{first} works on {_either(f.kinds)}, {second} on {_either(g.kinds)}; no model is both."
    if not set(f.devices) & set(g.devices):
        return f"{first} runs on {_either(f.devices)} and {second} on {_either(g.devices)}; no device serves both."
    if f.dtypes and g.dtypes and not f.dtypes & g.dtypes:
        return f"{first} computes in {_either(f.dtypes)} and {second} in {_either(g.dtypes)}; no type serves both."
    for (_, facts), (other, _) in (((first, f), (second, g)), ((second, g), (first, f))):
        if other in facts.refuses:
            return f"{first} and {second} do not work together: {facts.refuses[other]}."
    return None


def conflicts(algorithms: Sequence[Named]) -> list[str]:
    """Every reason why these algorithms cannot be one recipe."""
    found = (conflict(a, b) for i, a in enumerate(algorithms) for b in algorithms[i + 1 :])
    return [reason for reason in found if reason]


def clashes(there: Sequence[Named], wanted: Sequence[Named], own: bool) -> list[str]:
    """Why algorithms cannot be together, or cannot come to those that are on a model already.

    Args:
        own: whether those were applied to this model, and not to one that it shares parts with.
    """
    found = conflicts(wanted)
    holder = "this model" if own else "the pipeline that shares its parts with this one"
    for (old, facts), new in product(there, wanted):
        reason = conflict((old, facts), new)
        if reason:
            before = "" if old == new[0] else f"{reason} "
            found.append(f"{before}{old} is already applied to {holder}; gearshift.restore removes it.")
    return found


def order(algorithms: Sequence[Named]) -> list[str]:
    """Names in the order of application: by stage, then `after`, then as given.

    Raises:
        ValueError: if `after` goes round in a circle; the message has the path.
    """
    place = {name: i for i, (name, _) in enumerate(algorithms)}
    done: list[str] = []
    for stage in sorted({facts.stage for _, facts in algorithms}):
        group = {name: facts.after for name, facts in algorithms if facts.stage == stage}
        sorter = TopologicalSorter({name: after & group.keys() for name, after in group.items()})
        try:
            sorter.prepare()
        except CycleError as error:
            raise ValueError("these want to go before each other: " + " > ".join(error.args[1])) from None
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=place.__getitem__)
            done += ready
            sorter.done(*ready)
    return done


def _either(values: Iterable[object]) -> str:
    words = sorted(str(getattr(v, "value", v)) for v in values)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
