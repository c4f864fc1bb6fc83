"""A module whose layers were made smaller, and what its configuration says of that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

from gearshift.core.change import Change

FIELDS = {
    "neurons": r"intermediate|inner|ffn|_ff$|mlp|expert",
    "heads": r"(?<!_)heads?$|_heads?$|n_head|head_kv|kv_heads",
}  # of a configuration, that may say how many of a kind there are
ABSENT = ...  # the value of an attribute that was not there
SEARCHED = 64  # configurations that are tried at most


@dataclass(eq=False)
class Shrunk(Change):
    """The layers of one module, made smaller; originals are kept if asked for.

    Attributes:
        taken: units left and units before, by kind.
        groups: the same of each group, by path and kind.
        told: attributes of modules, and (with the path None) fields of the configuration, with their values before and
            now.
    """

    root: Any
    by: str
    keep: bool
    taken: dict[str, tuple[int, int]] = field(default_factory=dict)
    originals: dict[str, dict[str, Any]] = field(default_factory=dict)
    smaller: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: dict[tuple[str | None, str], tuple[Any, Any]] = field(default_factory=dict)
    groups: dict[tuple[str, str], tuple[int, int, int, int]] = field(default_factory=dict)

    def apply(self) -> None:
        self._put(self.smaller, 1)

    def revert(self) -> None:
        self._put(self.originals, 0)

    def irreversible_reason(self) -> str | None:
        if self.keep or not self.taken:
            return None
        return f"{self.by} removed weights and did not keep them; keep_original=True would have."

    def leave(self, chosen: list[tuple[Any, Any]]) -> None:
        """Leave only some units of groups, given as (group, units)."""
        from gearshift.models.prunable_groups import shrink, state, staying

        for (path, rows), left in staying(self.root, chosen).items():
            layer = self.root.get_submodule(path)
            if self.keep:
                self.originals.setdefault(path, state(layer))
            shrink(layer, left if rows else None, None if rows else left)
            self.smaller[path] = state(layer)
        for group, kept in chosen:
            for path, name, factor in group.counts:
                self._tell(path, name, factor * len(kept))
            first = self.groups.get((group.path, group.kind), (group.units,))[0]
            self.groups[group.path, group.kind] = (first, len(kept), group.together, group.size)
            counts = [c for (_, kind), c in self.groups.items() if kind == group.kind]
            self.taken[group.kind] = (sum(c[1] for c in counts), sum(c[0] for c in counts))

    def sizes(self) -> dict[str, list[int]]:
        from gearshift.models.prunable_groups import shape

        return {path: shape(self.root.get_submodule(path)) for path in self.smaller}

    def attributes(self) -> list[list[Any]]:
        return [[path, name, new] for (path, name), (_, new) in self.told.items() if path is not None]

    def resize(self, twin: Any) -> None:
        """Make the same layers of another module as small, as when a saved folder is loaded."""
        resized(twin, self.sizes(), self.attributes())

    def configure(self, proof: Any) -> bool:
        """Write the sizes into the configuration, if one is found that makes the same module; else leave it.

        Args:
            proof: compares what a configuration makes with the module.
        """
        config = getattr(self.root, "config", None)
        if not hasattr(config, "to_dict") or not proof.rebuildable:
            return False
        for wanted in self._configurations(config):
            before = {name: getattr(config, name, ABSENT) for name in wanted}
            try:
                for name, size in wanted.items():
                    setattr(config, name, size)
                found = proof.holds()
            except (ValueError, TypeError, AttributeError):  # what the configuration's own checks refuse
                found = False
            if found:
                self.told |= {(None, name): (before[name], value) for name, value in wanted.items()}
                return True
            for name, value in before.items():
                _write(config, name, value)
        return False

    def _configurations(self, config: Any) -> Iterator[dict[str, int]]:
        """Fields to change, as far as fields' meanings and values tell; those with the fewest come first."""
        choices = []
        for kind in self.taken:
            counts = {c for (_, k), c in self.groups.items() if k == kind}
            if len(counts) != 1 or kind not in FIELDS:
                return
            choices.append(_subsets(_candidates(config, FIELDS[kind], *counts.pop())))
        found = [{name: value for part in parts for name, value in part.items()} for parts in product(*choices)]
        yield from sorted(found, key=len)[:SEARCHED]

    def _tell(self, path: str, name: str, value: Any) -> None:
        module = self.root.get_submodule(path)
        old = self.told.get((path, name), (getattr(module, name), None))[0]
        self.told[path, name] = (old, value)
        setattr(module, name, value)

    def _put(self, weights: dict[str, dict[str, Any]], which: int) -> None:
        from gearshift.models.prunable_groups import place

        for layer, tensors in weights.items():
            place(self.root.get_submodule(layer), tensors)
        for (path, name), values in self.told.items():
            _write(self.root.config if path is None else self.root.get_submodule(path), name, values[which])


def _write(holder: Any, name: str, value: Any) -> None:
    """Give an attribute back the value that it had."""
    if value is not ABSENT:
        setattr(holder, name, value)
    elif hasattr(holder, name):
        delattr(holder, name)


def resized(root: Any, sizes: dict[str, list[int]], attributes: list[list[Any]]) -> None:
    """Give layers other shapes, without storage, and tell modules of them."""
    from gearshift.models.prunable_groups import resize

    for path, shape in sizes.items():
        resize(root.get_submodule(path), shape)
    for path, name, value in attributes:
        setattr(root.get_submodule(path), name, value)


def _candidates(config: Any, words: str, before: int, after: int, together: int, size: int) -> dict[str, int]:
    """Fields that may say how many units there are, or heads of several units each, and what they would say now."""
    found = {}
    for name in config.to_dict():
        value = getattr(config, name, None)
        if not re.search(words, name) or isinstance(value, bool):
            continue
        if value == before or value is None:
            found[name] = after
        elif value == before * together:
            found[name] = after * together
    if size and getattr(config, "head_dim", None) is None:
        found["head_dim"] = size  # else the heads that are left would be taken to be larger
    return found


def _subsets(fields: dict[str, int]) -> list[dict[str, int]]:
    """Every choice of at least one field."""
    return [dict(some) for n in range(1, len(fields) + 1) for some in combinations(fields.items(), n)]
