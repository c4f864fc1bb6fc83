"""What stays in float32 when a model is cast to 16 bits: what its library keeps so, and parts that overflow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from gearshift.core.change import Change

LISTS = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")  # of transformers and diffusers
SIDE = 64  # pixels of the image that an autoencoder is tried with
END = 65504.0  # float16's largest number


def narrow(part: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, torch.Tensor]]:
    """The floating-point tensors that a cast to 16 bits takes, as (module, name, tensor), parameters first.

    Modules stay that their library keeps in float32, and so do buffers that are computed anew at each start (the
    frequencies of rotary embeddings and other tables): 16 bits would move distant positions.
    """
    kept = list(_kept(part))
    for kind in ("_parameters", "_buffers"):
        for path, module in part.named_modules():
            for name, tensor in getattr(module, kind).items():
                fleeting = kind == "_buffers" and name in module._non_persistent_buffers_set
                whole = f"{path}.{name}" if path else name
                if tensor is None or fleeting or not tensor.is_floating_point() or any(k.match(whole) for k in kept):
                    continue
                yield module, name, tensor


def _kept(part: torch.nn.Module) -> Iterator[re.Pattern[str]]:
    """Patterns of the paths that a library's lists name, each below the module that has the list."""
    for path, module in part.named_modules():
        above = re.escape(f"{path}.") if path else ""
        for name in {name for which in LISTS for name in getattr(module, which, None) or ()}:
            yield re.compile(rf"{above}(?:.*\.)?{re.escape(name)}(?:\.|$)")


def is_autoencoder(part: Any) -> bool:
    """Whether a part of a pipeline makes latents of images and images of latents."""
    return isinstance(part, torch.nn.Module) and all(callable(getattr(part, n, None)) for n in ("encode", "decode"))


@dataclass(eq=False)
class OwnType(Change):
    """Calls of an autoencoder in its own type, whatever type the rest of the pipeline hands it."""

    part: Any

    def apply(self) -> None:
        for name in ("encode", "decode"):
            vars(self.part)[name] = _Widened(self.part, name)

    def revert(self) -> None:
        for name in ("encode", "decode"):
            vars(self.part).pop(name, None)


class _Widened:
    """Stands in for a method of an autoencoder."""

    def __init__(self, part: Any, name: str) -> None:
        self.part, self.name = part, name

    def __call__(self, given: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        own = getattr(type(self.part), self.name).__get__(self.part)
        return own(given.to(self.part.dtype), *args, **kwargs)


@torch.no_grad()
def run(part: Any) -> bool:
    """Let an autoencoder make latents of an image, and images of those and of noise; False if it takes no image."""
    tensor = next(part.parameters())
    for extra in ((), (1,)):  # images, or videos of one frame
        image = _picture(int(getattr(part.config, "in_channels", 3)), extra).to(tensor)
        try:
            latents = _first(part.encode(image))
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(tensor)
            part.decode(latents)
            part.decode(noise / float(getattr(part.config, "scaling_factor", None) or 1.0))
            return True
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
            continue
    return False


@contextmanager
def largest_magnitude(part: torch.nn.Module) -> Iterator[Callable[[], float]]:
    """Listen to everything that goes into a module's layers and comes out; gives what returns the largest magnitude."""
    most = [0.0]

    def listen(_: Any, *tensors_: Any) -> None:
        for value in tree_leaves(tensors_):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
                most[0] = max(most[0], float(value.abs().nan_to_num(0.0, 0.0, 0.0).max()))

    layers = [module for module in part.modules() if not any(module.children())]
    handles = [layer.register_forward_hook(listen) for layer in layers]
    try:
        yield lambda: most[0]
    finally:
        for handle in handles:
            handle.remove()


def _picture(channels: int, extra: tuple[int, ...]) -> torch.Tensor:
    """An image in [-1, 1], float32 [1, channels, *extra, side, side]: soft colors and a fine grain."""
    soft = torch.linspace(-0.9, 0.9, SIDE)
    grain = 0.2 * torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    planes = [((soft[:, None] * (n + 1) + soft[None]).sin() + grain).clamp(-1, 1) for n in range(channels)]
    return torch.stack(planes).view(1, channels, *extra, SIDE, SIDE)


def _first(output: Any) -> torch.Tensor:
    """The latents or the image of what an autoencoder answers."""
    if hasattr(output, "latent_dist"):
        return output.latent_dist.mode()
    for name in ("latents", "latent", "sample"):
        if hasattr(output, name):
            return getattr(output, name)
    return output[0]
