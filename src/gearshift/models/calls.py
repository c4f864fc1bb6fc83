"""What happens around a pipeline's call: its arguments and its images go through hooks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

from gearshift.core.change import Change
from gearshift.core.errors import GearshiftWarning

HOOKS = "_gearshift_hooks"
SILENT: ContextVar[bool] = ContextVar("silent", default=False)  # the call is gearshift's own, not the user's


class Hook:
    """Something around a pipeline's call; either half may be left as it is here.

    Attributes:
        name: of the algorithm, for what it tells the user.
    """

    name = "gearshift"

    def before(self, pipe: Any, given: dict[str, Any]) -> dict[str, Any]:
        """The call's arguments by name, as the pipeline is to get them."""
        return given

    def after(self, pipe: Any, images: Any, given: Mapping[str, Any]) -> Any:
        """The images (PIL images, an array or a tensor, as `output_type` has it) as the caller is to get them."""
        return images


@dataclass(eq=False)
class Hooked(Change):
    """The change that puts a hook around a pipeline's call.

    The pipeline's class is replaced by a subclass of the same name whose call asks the hooks; `isinstance` stays.
    """

    pipe: Any
    hook: Hook

    def apply(self) -> None:
        hooks = vars(self.pipe).setdefault(HOOKS, [])
        if not hooks:
            self.pipe.__class__ = _subclass(self.pipe.__class__)
        hooks.append(self.hook)

    def revert(self) -> None:
        hooks = vars(self.pipe)[HOOKS]
        hooks.remove(self.hook)
        if not hooks:
            del vars(self.pipe)[HOOKS]
            self.pipe.__class__ = type(self.pipe).__mro__[1]


@cache
def _subclass(cls: type) -> type:
    """A subclass of the same name and module, so that it is saved and looked up as the original."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = arguments(cls, args, kwargs)
        for hook in vars(self)[HOOKS]:
            given = hook.before(self, given)
        output = cls.__call__(self, **given)
        if given.get("output_type") == "latent":
            _tell_of_latents(vars(self)[HOOKS])
            return output
        images = output[0] if isinstance(output, tuple) else output.images
        for hook in vars(self)[HOOKS]:
            images = hook.after(self, images, given)
        if isinstance(output, tuple):
            return (images, *output[1:])
        output.images = images
        return output

    call.__signature__ = _signature(cls)  # type: ignore[attr-defined]
    call.__doc__ = cls.__call__.__doc__

    def reduce(self: Any, protocol: Any) -> Any:
        return _empty, (cls,), dict(vars(self))

    told = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls.__name__, (cls,), {"__call__": call, "__reduce_ex__": reduce, **told})


def _empty(cls: type) -> Any:
    """A pipeline with hooks and without attributes, for those that were copied or pickled."""
    made = _subclass(cls)
    return object.__new__(made)


def _tell_of_latents(hooks: list[Hook]) -> None:
    """Say which hooks had no images to work on."""
    idle = [hook.name for hook in hooks if type(hook).after is not Hook.after]
    if idle and not SILENT.get():
        warnings.warn(
            f"{' and '.join(idle)} did nothing: the call asked for latents (output_type='latent'), and images are what "
            "is worked on. Ask for 'pil', 'np' or 'pt'.",
            GearshiftWarning,
            stacklevel=3,
        )


def arguments(cls: type, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline's call by name, those that were given."""
    names = list(_signature(cls).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _signature(cls: type) -> Any:
    import inspect

    return inspect.signature(cls.__call__)
