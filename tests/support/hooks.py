"""Hooks of accelerate and diffusers on tiny pipelines, and walks through orders of putting on theirs and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import hooks
from support.tiny import Tiny, build

import gearshift as gs
from gearshift.core.errors import BadRecipe

STEPS = 4
CPU = torch.device("cpu")
ACTIONS = ("optimize", "restore", "disable", "enable", "on", "off")


@dataclass(frozen=True)
class Theirs:
    """Another library's hooks on the denoiser of a tiny pipeline.

    Attributes:
        on, off: put them on a denoiser of a pipeline, and take them off; off=None: they stay.
        model: the tiny pipeline.
    """

    on: Callable[[Any, Any], Any]
    off: Callable[[Any], Any] | None
    model: str = "flux"


def _grouped(**how: Any) -> Theirs:
    def off(net: Any) -> None:
        hooks.HookRegistry.check_if_exists_or_initialize(net).remove_hook("group_offloading", recurse=True)

    return Theirs(lambda pipe, net: net.enable_group_offload(onload_device=CPU, offload_device=CPU, **how), off)


def _cached(make: Callable[[Any], Any], model: str = "flux") -> Theirs:
    return Theirs(lambda pipe, net: net.enable_cache(make(pipe)), lambda net: net.disable_cache(), model)


def _model_offload(pipe: Any, net: Any) -> None:
    from accelerate import cpu_offload_with_hook

    cpu_offload_with_hook(net, CPU)


def _leaf_by_leaf(pipe: Any, net: Any) -> None:
    from accelerate import cpu_offload

    cpu_offload(net, CPU)


def _unhook(net: Any) -> None:
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(net, recurse=True)


def _forward(pipe: Any, net: Any) -> None:
    net._usual_forward = net.forward
    net.forward = lambda *args, **kwargs: tuple(out * 0.9 for out in net._usual_forward(*args, **kwargs))


def _usual(net: Any) -> None:
    net.forward = vars(net).pop("_usual_forward")


PAB = {"spatial_attention_block_skip_range": 2, "spatial_attention_timestep_skip_range": (-1, 1001)}
HOOKS = {
    "group offloading, blocks": _grouped(offload_type="block_level", num_blocks_per_group=1),
    "group offloading, leaves": _grouped(offload_type="leaf_level"),
    "model offloading": Theirs(_model_offload, _unhook, "sd"),
    "sequential offloading": Theirs(_leaf_by_leaf, _unhook, "dit"),
    "layerwise casting": Theirs(
        lambda pipe, net: net.enable_layerwise_casting(torch.bfloat16, torch.float32, ()), None
    ),
    "first block cache": _cached(lambda pipe: hooks.FirstBlockCacheConfig(threshold=0.3)),
    "pyramid attention broadcast": _cached(
        lambda pipe: hooks.PyramidAttentionBroadcastConfig(
            **PAB, current_timestep_callback=lambda: pipe.current_timestep
        )
    ),
    "FasterCache": _cached(
        lambda pipe: hooks.FasterCacheConfig(
            is_guidance_distilled=True, current_timestep_callback=lambda: pipe.current_timestep
        )
    ),
    "MagCache": _cached(
        lambda pipe: hooks.MagCacheConfig(
            threshold=0.5, retention_ratio=0.25, num_inference_steps=STEPS, mag_ratios=torch.full((STEPS,), 0.9)
        )
    ),
    "TaylorSeer": _cached(
        lambda pipe: hooks.TaylorSeerCacheConfig(
            cache_interval=2, disable_cache_before_step=1, taylor_factors_dtype=torch.float32
        )
    ),
    "SeaCache": _cached(lambda pipe: hooks.SeaCacheConfig(threshold=10.0), "wan"),
    "a forward of the user's own": Theirs(_forward, _usual),
}


@dataclass(frozen=True)
class State:
    """What is on."""

    ours: bool = False
    hooked: bool = False
    disabled: bool = False

    def allows(self, action: str) -> bool:
        return {
            "optimize": not self.ours,
            "restore": self.ours and not self.disabled,
            "disable": self.ours and not self.disabled,
            "enable": self.disabled,
            "on": not self.hooked,
            "off": self.hooked,
        }[action]

    def after(self, action: str) -> State:
        return State(
            ours=(self.ours or action == "optimize") and action != "restore",
            hooked=(self.hooked or action == "on") and action != "off",
            disabled=(self.disabled or action == "disable") and action != "enable",
        )


class Walk:
    """One tiny pipeline on which things are put on and taken off; `go` compares its output after each action."""

    def __init__(self, theirs: Theirs, recipe: str) -> None:
        self.theirs, self.recipe = theirs, recipe
        self.wanted: dict[tuple[bool, bool], torch.Tensor] = {}
        tiny = self._fresh()
        self.wanted[False, False] = self.run()
        theirs.on(tiny.pipe, self.net)
        self.wanted[False, True] = self.run()
        tiny = self._fresh()
        gs.optimize(tiny.pipe, recipe)
        self.wanted[True, False] = self.run()
        theirs.on(tiny.pipe, self.net)
        self.wanted[True, True] = self.run()

    @property
    def net(self) -> Any:
        return getattr(self.tiny.pipe, self.tiny.denoiser)

    def run(self) -> torch.Tensor:
        return self.tiny.run(steps=STEPS)

    def go(self, actions: Iterable[str], most: int | None = None) -> list[str]:
        """What went wrong, after which action.

        Args:
            actions: those that make no sense where they come are left out.
            most: how many are done.
        """
        self._fresh()
        self.stack, self.done, wrong = ExitStack(), [], []
        self.state = State()
        with self.stack:
            for action in self.sensible(actions)[:most]:
                self.done.append(action)
                try:
                    self._act(action)
                except BadRecipe:  # some hooks keep a recipe from being applied: nothing has changed, and it ends here
                    return (
                        wrong if self.distance() <= 1e-4 else [*wrong, f"{', '.join(self.done)}: changed and refused"]
                    )
                self.state = self.state.after(action)
                off = self.distance()
                if off > 1e-4:
                    wrong.append(f"{', '.join(self.done)}: {off:.2g} off")
        return wrong

    def sensible(self, actions: Iterable[str]) -> list[str]:
        """The actions that can be done where they come."""
        state, found = State(), []
        for action in actions:
            if state.allows(action) and (action != "off" or self.theirs.off is not None):
                found.append(action)
                state = state.after(action)
        return found

    def distance(self) -> float:
        wanted = self.wanted[self.state.ours and not self.state.disabled, self.state.hooked]
        return float((self.run() - wanted).norm() / wanted.norm())

    def _fresh(self) -> Tiny:
        self.tiny = build(self.theirs.model)
        return self.tiny

    def _act(self, action: str) -> None:
        pipe = self.tiny.pipe
        if action == "optimize":
            gs.optimize(pipe, self.recipe)
        elif action == "restore":
            gs.restore(pipe)
        elif action == "disable":
            self.stack.enter_context(gs.disabled(pipe))
        elif action == "enable":
            self.stack.pop_all().close()
        elif action == "on":
            self.theirs.on(pipe, self.net)
        elif action == "off":
            assert self.theirs.off is not None
            self.theirs.off(self.net)
