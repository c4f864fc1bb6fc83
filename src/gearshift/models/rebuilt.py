"""Proof of a changed module: made anew from its configuration, given the same weights, run, and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from gearshift.core.errors import GearshiftError, told
from gearshift.core.extras import installed
from gearshift.models.example import example_call, silent

Call = tuple[tuple, dict[str, Any]]


@dataclass(frozen=True)
class Proof:
    """What a module can be compared by, found before it is changed.

    Attributes:
        root: the module.
        call: the arguments of a call of it; None if nothing is known that it could be called with.
        rebuildable: whether its configuration describes it.
    """

    root: nn.Module
    call: Call | None
    rebuildable: bool

    @staticmethod
    def of(model: Any, root: nn.Module, data: Any) -> Proof:
        """For a module that is a model or a part of one, called with the first item of `data` or what fits it."""
        twin = built(root)
        return Proof(root, _heard(model, root, data), twin is not None and shapes(twin) == shapes(root))

    def answer(self) -> list[torch.Tensor] | None:
        """What the changed module answers; None without a call.

        Raises:
            GearshiftError: if it cannot be run any more.
        """
        if self.call is None:
            return None
        try:
            return _run(self.root, self.call)
        except Exception as error:
            reason = told(error)
            raise GearshiftError(
                f"{type(self.root).__name__} does not run with what would be left of it: {reason}. It was left as it "
                "was."
            ) from error

    def holds(self, change: Callable[[nn.Module], None] = lambda _: None) -> bool:
        """Whether one that is built from the configuration has the changed one's shapes and gives its answers.

        Args:
            change: done to the new one first, as it is when a saved folder is loaded.
        """
        twin = built(self.root)
        if twin is None:
            return False
        try:
            change(twin)
            if shapes(twin) != shapes(self.root):
                return False
            twin.load_state_dict(self.root.state_dict(), assign=True)
            if self.call is None:
                return True
            place = next(self.root.parameters()).device
            answers = _run(self.root, self.call), _run(twin.to(place), self.call)
        except Exception:
            return False
        return len(answers[0]) == len(answers[1]) and all(map(_equal, *answers))


def built(root: nn.Module) -> nn.Module | None:
    """A module made from another one's configuration, its parameters without storage; None if that cannot be."""
    config, cls = getattr(root, "config", None), type(root)
    if config is None or not installed("accelerate"):
        return None
    from accelerate import init_empty_weights

    try:
        with init_empty_weights(include_buffers=False), torch.random.fork_rng():
            made = cls.from_config(config) if hasattr(cls, "from_config") else cls(_read_again(config))
    except Exception:
        return None
    return made.eval()


def _read_again(config: Any) -> Any:
    """A transformers configuration as it is after saving and loading."""
    again = type(config).from_dict(config.to_dict())
    again._attn_implementation = config._attn_implementation
    return again


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """The shape of everything that is saved of a module."""
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _heard(model: Any, root: nn.Module, data: Any) -> Call | None:
    """The arguments that a part of a model is given in one short call of the model, if that runs."""
    run = example_call(model, data)
    if run is None and model is root:
        given = standard(root)
        run = None if given is None else lambda: root(**given)
    if run is None:
        return None
    heard: list[Call] = []

    def listen(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        heard.append((args, dict(kwargs)))

    handle = root.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        with torch.no_grad(), silent(model):
            run()
        _run(root, heard[0])
    except Exception:
        return None
    finally:
        handle.remove()
    return heard[0]


def standard(root: Any) -> dict[str, Any] | None:
    """Arguments for a module of transformers, of what its configuration says of its input; None for others."""
    config, main = getattr(root, "config", None), getattr(root, "main_input_name", None)
    first = next(root.parameters(), None)
    if config is None or first is None:
        return None
    generator = torch.Generator().manual_seed(0)
    words = getattr(config, "vocab_size", None) or 2
    tokens = torch.randint(0, words, (1, 16), generator=generator).to(first.device)
    decoder = {"decoder_input_ids": tokens} if getattr(config, "is_encoder_decoder", False) else {}
    if main == "input_ids":
        return {"input_ids": tokens, **decoder}
    if main == "input_features" and hasattr(config, "max_source_positions"):
        shape: tuple[int, ...] = (1, config.num_mel_bins, 2 * config.max_source_positions)
    elif main == "pixel_values" and isinstance(getattr(config, "image_size", None), int):
        shape = (1, getattr(config, "num_channels", 3), config.image_size, config.image_size)
    else:
        return None
    return {main: torch.randn(shape, generator=generator).to(first), **decoder}


@torch.no_grad()
def _run(module: nn.Module, call: Call) -> list[torch.Tensor]:
    """The tensors of a module's answer in use; its mode and torch's random state are left as they were."""
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found = tree_leaves(module.eval()(*call[0], **call[1]))
            return [t.clone() for t in found if isinstance(t, torch.Tensor)]
    finally:
        for part, mode in modes.items():
            part.training = mode
