"""Algorithm: typed parameters, declared facts and one `apply`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from gearshift.core.errors import BadRecipe, BadValue, UnknownName
from gearshift.core.facts import Facts, Trait
from gearshift.core.param import Param, param

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    from gearshift.core.context import Context
    from gearshift.core.plain import Shape
else:

    def dataclass_transform(**_: Any) -> Any:
        return lambda cls: cls


@dataclass_transform(field_specifiers=(param,), kw_only_default=True, frozen_default=True)
class Algorithm:
    """Base of every algorithm. A subclass declares `facts`, its parameters with `param(...)`, and `apply`.

    Subclasses become frozen, keyword-only dataclasses; parameters are checked when one is made, and the facts when the
    class is. The name is the class's name in snake case unless the class sets `name`. A class that others share, made
    with `base=True`, is no algorithm in itself.

    Attributes:
        saved_fields: what it may keep in a saved folder with `Context.save`, and of which shape; nothing by default.
        reversible: it persists in the weights, and what `rebuild` changes can be taken off bit for bit all the same.

    Raises:
        BadValue: from the constructor, for a parameter outside its bound.
        UnknownName: from `make`, for a parameter that does not exist.
    """

    name: ClassVar[str]
    facts: ClassVar[Facts]
    is_base: ClassVar[bool] = True
    reversible: ClassVar[bool] = False
    saved_fields: ClassVar[Mapping[str, Shape]] = {}

    def __init_subclass__(cls, base: bool = False) -> None:
        cls.is_base = base
        if not isinstance(getattr(cls, "facts", None), Facts):
            raise TypeError(f"{cls.__name__} declares no facts")
        if not (cls.__doc__ or "").strip():
            raise TypeError(f"{cls.__name__} needs a docstring: its first line is its summary")
        if "name" not in cls.__dict__:
            cls.name = "".join("_" + c.lower() if c.isupper() else c for c in cls.__name__).lstrip("_")
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if "param" not in field.metadata:
                raise TypeError(f"{cls.__name__}.{field.name} is not declared with param(...)")

    def __post_init__(self) -> None:
        problems = []
        for name, declared in self.params().items():
            try:
                declared.check(name, self.name, getattr(self, name))
            except BadValue as error:
                problems.append(str(error))
        problems += self.check_together()
        if problems:
            raise BadValue(" ".join(problems))

    @classmethod
    def make(cls, values: dict[str, Any]) -> Algorithm:
        """An instance from plain values.

        Raises:
            BadRecipe: with every unknown parameter and every bad value at once.
        """
        known = cls.params()
        problems = [str(UnknownName(f"parameter of {cls.name}", name, known)) for name in values if name not in known]
        try:
            made = cls(**{name: value for name, value in values.items() if name in known})
        except BadValue as error:
            problems.append(str(error))
        if problems:
            raise BadRecipe(problems)
        return made

    @classmethod
    def params(cls) -> dict[str, Param]:
        """Declared parameters by name."""
        return {f.name: f.metadata["param"] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    def values(self) -> dict[str, Any]:
        """Parameter values by name, defaults included."""
        return {name: getattr(self, name) for name in self.params()}

    def check_together(self) -> list[str]:
        """Sentences about parameters that do not fit each other; none by default."""
        return []

    def assumed_traits(self) -> frozenset[Trait]:
        """Traits that the caller says the model has, where gearshift cannot see them; none by default."""
        return frozenset()

    def check_model(self, model: Any, context: Context) -> list[str]:
        """Sentences about what this model lacks, beyond the declared traits; nothing is changed."""
        return []

    def before_recipe(self, model: Any, context: Context) -> None:
        """See the model before anything of the recipe is applied: what it answers now can be kept in `context.seen`."""

    def apply(self, model: Any, context: Context) -> Any:
        """Change the model in place; every change goes through the context, which can take it back.

        Returns:
            None, or the object that replaces the model.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is applied")

    def rebuild(self, model: Any, context: Context) -> None:
        """Give a model that was made from its configuration the modules that the saved weights fit into.

        Only algorithms that persist in the weights are asked; unless one says otherwise, it is applied again.
        """
        self.apply(model, context)
