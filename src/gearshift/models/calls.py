"""What happens after a pipeline's call: its images go through further functions before the caller gets them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

AFTER = "_gearshift_after"
After = Callable[[Any, Any, Mapping[str, Any]], Any]


@dataclass(eq=False)
class Afterwards:
    """The change that sends a pipeline's images through a function.

    The pipeline's class is replaced by a subclass of the same name whose call does it; `isinstance` stays.

    Attributes:
        function: takes the pipeline, its images (PIL images, an array or a tensor, as `output_type` has it) and the
            call's arguments by name; gives images of the same kind.
    """

    pipe: Any
    function: After

    def lay(self) -> None:
        functions = vars(self.pipe).setdefault(AFTER, [])
        if not functions:
            self.pipe.__class__ = _subclass(type(self.pipe))
        functions.append(self.function)

    def lift(self) -> None:
        functions = vars(self.pipe)[AFTER]
        functions.remove(self.function)
        if not functions:
            del vars(self.pipe)[AFTER]
            self.pipe.__class__ = type(self.pipe).__mro__[1]

    def why_not(self) -> None:
        return None


def _subclass(cls: type) -> type:
    """A subclass of the same name and module, so that it is saved and looked up as the original."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = cls.__call__(self, *args, **kwargs)
        given = arguments(cls, args, kwargs)
        if given.get("output_type") == "latent":
            return output
        images = output[0] if isinstance(output, tuple) else output.images
        for function in vars(self)[AFTER]:
            images = function(self, images, given)
        if isinstance(output, tuple):
            return (images, *output[1:])
        output.images = images
        return output

    call.__signature__ = _signature(cls)  # type: ignore[attr-defined]
    call.__doc__ = cls.__call__.__doc__
    members = {"__call__": call, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), members)


def arguments(cls: type, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline's call by name, those that were given."""
    names = list(_signature(cls).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _signature(cls: type) -> Any:
    import inspect

    return inspect.signature(cls.__call__)
