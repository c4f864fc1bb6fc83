"""Recipe: an ordered list of algorithms and what they share, to and from Python, dicts, YAML and short strings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.boundary import reading
from gearshift.core.errors import BadRecipe, GearshiftError, UnknownName, quoted
from gearshift.core.examples import examples
from gearshift.core.literal import read_recipe, written
from gearshift.core.registry import registry
from gearshift.core.rules import conflicts, order
from gearshift.core.yamls import read_yaml, write_yaml

SAVED_SETTINGS = ("batch_size", "device", "seed", "include", "exclude", "exportable")
READERS = ("tokenizer", "processor")  # what reads and writes a model\'s text and sound
SETTINGS = (*SAVED_SETTINGS, "tokenizer", "processor", "data", "tuned")


@dataclass(frozen=True)
class Recipe:
    """Algorithms in the order they are applied, and the settings they share.

    Attributes:
        algorithms: the algorithms, ordered by the rules.
        batch_size: batch size that batchers and quantizers prepare for.
        device: device to work on; None leaves the model where it is.
        seed: seed of anything random while optimizing.
        include: globs of module paths; given, algorithms that replace layers take these and no others.
        exclude: globs of module paths that are left alone beside those that are left alone anyway.
        exportable: weights in groups are rounded to what the formats of other programs hold (see `gearshift.export`),
            whose zeros are whole numbers; it costs a little accuracy.
        tokenizer, processor: used to read calibration data; never saved with the model by a recipe.
        tuned: what `gs.tune` wrote beside it: the machine it was found on, and its figures there.
        data: calibration data: an iterable of what the model takes; a dict or a string is one such example.

    Raises:
        BadRecipe: from `of` and `ready`, with everything that is wrong at once.
    """

    algorithms: tuple[Algorithm, ...] = ()
    batch_size: int = 1
    device: str | None = None
    seed: int = 0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exportable: bool = False
    tokenizer: Any = None
    processor: Any = None
    data: Any = None
    tuned: Any = None

    @staticmethod
    def of(given: Any = None, /, **keywords: Any) -> Recipe:
        """Read a recipe from whatever was given.

        Args:
            given: a Recipe; a name; 'qkv_diffusers, taylor(order=1)'; a path of a YAML file; an algorithm; a list of
                names, {name: parameters} and algorithms; or a dict of them, settings among its keys.
            keywords: settings, or algorithms by name with True or a dict of parameters.
        """
        base, entries = _entries(given)
        settings = {k: keywords.pop(k) for k in SETTINGS if k in keywords}
        made, problems = [], []
        for entry in [*entries, *({k: v} for k, v in keywords.items() if v is not False)]:
            try:
                made += [a for a in _algorithms(entry, settings)]
            except BadRecipe as error:
                problems += error.problems
            except GearshiftError as error:
                problems.append(str(error))
        try:
            recipe = replace(base, **settings)
            recipe = recipe.joined(made)
        except BadRecipe as error:
            problems += error.problems
        if problems:
            raise BadRecipe(problems)
        return recipe

    def __post_init__(self) -> None:
        problems = []
        if not isinstance(self.batch_size, int) or isinstance(self.batch_size, bool) or self.batch_size < 1:
            problems.append(f"batch_size must be an int of 1 or more. Got {quoted(self.batch_size)} instead.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not -(2**63) <= self.seed < 2**64:
            problems.append(f"seed must be an int of at most 64 bits. Got {quoted(self.seed)} instead.")
        if not isinstance(self.exportable, bool):
            problems.append(f"exportable must be True or False. Got {quoted(self.exportable)} instead.")
        device = self.device if isinstance(self.device, (str, NoneType)) else _name_of_device(self.device)
        if device is not None and not re.fullmatch(r"[a-z]+(:\d{1,4})?", device):
            problems.append(f"device must be a name such as 'cpu' or 'cuda:0'. Got {quoted(self.device)} instead.")
        object.__setattr__(self, "device", device)
        try:
            object.__setattr__(self, "data", examples(self.data))
        except BadRecipe as error:
            problems += error.problems
        if self.tuned is not None and not isinstance(self.tuned, Mapping):
            problems.append(f"tuned is what gs.tune wrote beside a recipe, a dict. Got {quoted(self.tuned)} instead.")
        for name in ("include", "exclude"):
            given = getattr(self, name)
            globs = (given,) if isinstance(given, str) else given
            if not isinstance(globs, (list, tuple)) or not all(isinstance(g, str) and g for g in globs):
                problems.append(f"{name} must be a list of globs such as 'blocks.*.attn'. Got {quoted(given)} instead.")
            else:
                object.__setattr__(self, name, tuple(globs))
        if problems:
            raise BadRecipe(problems)

    def joined(self, more: list[Algorithm]) -> Recipe:
        """This recipe with more algorithms, checked against each other and put in order."""
        everyone = [*self.algorithms, *more]
        named = [(a.name, type(a).facts) for a in everyone]
        problems = conflicts(named)
        if problems:
            raise BadRecipe(problems)
        by_name = {a.name: a for a in everyone}
        return replace(self, algorithms=tuple(by_name[name] for name in order(named)))

    def __iter__(self) -> Iterator[Algorithm]:
        return iter(self.algorithms)

    def __len__(self) -> int:
        return len(self.algorithms)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `of` reads back; tokenizer, processor and data stay behind."""
        algorithms = [{a.name: a.values()} if a.params() else a.name for a in self]
        return {"algorithms": algorithms, **self._changed()}

    def _changed(self) -> dict[str, Any]:
        """Settings that are not as they are by default, as plain data."""
        default = Recipe()
        values = {k: getattr(self, k) for k in SAVED_SETTINGS if getattr(self, k) != getattr(default, k)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def to_yaml(self) -> str:
        return write_yaml(self.to_dict())

    def __str__(self) -> str:
        """As `of` reads it back, unless there is a tokenizer, a processor or data."""
        settings = [f"{k}={written(v)}" for k, v in self._changed().items()]
        return ", ".join([_short(a) for a in self] + settings)


def _name_of_device(device: Any) -> str:
    """The name of a torch.device; none of anything else."""
    return str(device) if type(device).__name__ == "device" else ""


def _short(algorithm: Algorithm) -> str:
    defaults = algorithm.params()
    changed = [f"{k}={written(v)}" for k, v in algorithm.values().items() if v != defaults[k].default]
    return algorithm.name + (f"({', '.join(changed)})" if changed else "")


def _entries(given: Any) -> tuple[Recipe, list[Any]]:
    if given is None:
        return Recipe(), []
    if isinstance(given, Recipe):
        return given, []
    if isinstance(given, Path) or (isinstance(given, str) and given.endswith((".yaml", ".yml"))):
        return Recipe(), [_read_yaml(Path(given))]
    if isinstance(given, str):
        return Recipe(), read_recipe(given)
    if isinstance(given, (Mapping, Algorithm)):
        return Recipe(), [given]
    if isinstance(given, (list, tuple)):
        return Recipe(), list(given)
    raise BadRecipe([f"A recipe is a name, a list, a dict, a YAML file or a Recipe. Got {quoted(given)} instead."])


def _algorithms(entry: Any, settings: dict[str, Any]) -> Iterator[Algorithm]:
    """Algorithms of one entry; settings found among a dict's keys go into `settings`."""
    if isinstance(entry, Algorithm):
        yield entry
    elif isinstance(entry, type) and issubclass(entry, Algorithm):
        yield entry()
    elif isinstance(entry, str):
        for named in read_recipe(entry):
            yield from _algorithms(named, settings)
    elif isinstance(entry, Mapping):
        problems = []
        for name, values in entry.items():
            try:
                if name == "algorithms":
                    for inner in _listed(values):
                        yield from _algorithms(inner, settings)
                elif name in SETTINGS:
                    settings.setdefault(name, values)
                elif values is not False:
                    yield _class(name).make(_values(name, values))
            except BadRecipe as error:
                problems += error.problems
            except GearshiftError as error:
                problems.append(str(error))
        if problems:
            raise BadRecipe(problems)
    else:
        raise BadRecipe(
            [f"A recipe's entry is a name, {{name: parameters}} or an algorithm. Got {quoted(entry)} instead."]
        )


def _listed(entries: Any) -> list[Any]:
    if entries is None:
        return []
    if isinstance(entries, (str, Mapping)):
        return [entries]
    if isinstance(entries, (list, tuple)):
        return list(entries)
    raise BadRecipe([f"The algorithms of a recipe are a list. Got {quoted(entries)} instead."])


def _class(name: Any) -> type[Algorithm]:
    try:
        return registry().get(name)
    except UnknownName as error:
        raise BadRecipe([str(UnknownName("algorithm or setting", name, [*error.known, *SETTINGS]))]) from None


def _values(name: str, values: Any) -> dict[str, Any]:
    if values is None or values is True:
        return {}
    if not isinstance(values, Mapping):
        raise BadRecipe([f"{name} takes a dict of parameters. Got {quoted(values)} instead."])
    return dict(values)


def _read_yaml(path: Path) -> Any:
    with reading(path, "YAML", lambda sentence: BadRecipe([sentence])):
        found = read_yaml(path)
    return {"algorithms": found} if isinstance(found, list) else found
