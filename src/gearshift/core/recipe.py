"""Recipe: an ordered list of algorithms and what they share, to and from Python, dicts, YAML and short strings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from gearshift.core.algorithm import Algorithm
from gearshift.core.errors import BadRecipe, GearshiftError, UnknownName
from gearshift.core.registry import registry
from gearshift.core.rules import conflicts, order

SAVED_SETTINGS = ("batch_size", "device", "seed", "include", "exclude")
SETTINGS = (*SAVED_SETTINGS, "tokenizer", "processor", "data")


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
        tokenizer, processor: used to read calibration data; never saved with the model by a recipe.
        data: calibration data: an iterable of what the model takes.

    Raises:
        BadRecipe: from `of` and `ready`, with everything that is wrong at once.
    """

    algorithms: tuple[Algorithm, ...] = ()
    batch_size: int = 1
    device: str | None = None
    seed: int = 0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    tokenizer: Any = None
    processor: Any = None
    data: Any = None

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
            problems.append(f"batch_size must be an int of 1 or more. Got {self.batch_size!r} instead.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            problems.append(f"seed must be an int. Got {self.seed!r} instead.")
        for name in ("include", "exclude"):
            given = getattr(self, name)
            globs = (given,) if isinstance(given, str) else given
            if not isinstance(globs, (list, tuple)) or not all(isinstance(g, str) and g for g in globs):
                problems.append(f"{name} must be a list of globs such as 'blocks.*.attn'. Got {given!r} instead.")
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
        default = Recipe()
        values = {k: getattr(self, k) for k in SAVED_SETTINGS if getattr(self, k) != getattr(default, k)}
        changed = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return {"algorithms": algorithms, **changed}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def __str__(self) -> str:
        return ", ".join(_short(a) for a in self) or "nothing"


def _short(algorithm: Algorithm) -> str:
    defaults = algorithm.params()
    changed = [f"{k}={v}" for k, v in algorithm.values().items() if v != defaults[k].default]
    return algorithm.name + (f"({', '.join(changed)})" if changed else "")


def _entries(given: Any) -> tuple[Recipe, list[Any]]:
    if given is None:
        return Recipe(), []
    if isinstance(given, Recipe):
        return given, []
    if isinstance(given, Path) or (isinstance(given, str) and given.endswith((".yaml", ".yml"))):
        return Recipe(), [_read_yaml(Path(given))]
    if isinstance(given, str):
        return Recipe(), _read_string(given)
    if isinstance(given, (Mapping, Algorithm)):
        return Recipe(), [given]
    if isinstance(given, (list, tuple)):
        return Recipe(), list(given)
    raise BadRecipe([f"A recipe is a name, a list, a dict, a YAML file or a Recipe. Got {given!r} instead."])


def _algorithms(entry: Any, settings: dict[str, Any]) -> Iterator[Algorithm]:
    """Algorithms of one entry; settings found among a dict's keys go into `settings`."""
    if isinstance(entry, Algorithm):
        yield entry
    elif isinstance(entry, type) and issubclass(entry, Algorithm):
        yield entry()
    elif isinstance(entry, str):
        for name, values in (next(iter(e.items())) for e in _read_string(entry)):
            yield _class(name).make(values)
    elif isinstance(entry, Mapping):
        problems = []
        for name, values in entry.items():
            try:
                if name == "algorithms":
                    for inner in values or []:
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
        raise BadRecipe([f"A recipe's entry is a name, {{name: parameters}} or an algorithm. Got {entry!r} instead."])


def _class(name: str) -> type[Algorithm]:
    try:
        return registry().get(name)
    except UnknownName as error:
        raise BadRecipe([str(error)]) from None


def _values(name: str, values: Any) -> dict[str, Any]:
    if values is None or values is True:
        return {}
    if not isinstance(values, Mapping):
        raise BadRecipe([f"{name} takes a dict of parameters. Got {values!r} instead."])
    return dict(values)


def _read_yaml(path: Path) -> Any:
    try:
        found = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadRecipe([f"{path} cannot be read: {error.strerror}."]) from None
    except yaml.YAMLError as error:
        raise BadRecipe([f"{path} is not YAML: {' '.join(str(error).split())}."]) from None
    return {"algorithms": found} if isinstance(found, list) else found


def _read_string(text: str) -> list[dict[str, dict[str, Any]]]:
    """'a, b(x=1)' as [{'a': {}}, {'b': {'x': 1}}]; values are read as YAML scalars."""
    found, rest = [], text.strip()
    while rest:
        match = re.match(r"([A-Za-z_]\w*)\s*(?:\(([^()]*)\))?\s*(?:[,+]\s*|$)", rest)
        if not match:
            raise BadRecipe([f"{rest!r} cannot be read as a recipe; write 'name, name(parameter=value)'."])
        pairs = [p.partition("=") for p in (match[2] or "").split(",") if p.strip()]
        if any(not sign for _, sign, _ in pairs):
            raise BadRecipe([f"{match[0]!r}: parameters are written name=value."])
        found.append({match[1]: {k.strip(): yaml.safe_load(v) for k, _, v in pairs}})
        rest = rest[match.end() :]
    return found
