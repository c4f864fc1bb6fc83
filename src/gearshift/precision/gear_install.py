"""Gears in a pipeline's denoisers: putting them in, what they cost here, and the schedules that change them."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from gearshift.core.context import Context
from gearshift.core.target import select
from gearshift.kernels.cpu import onednn
from gearshift.measure.in_place import Seconds
from gearshift.models.diffusers import denoisers, describe_denoiser
from gearshift.models.example import example_arguments
from gearshift.precision.controller import Engaged, GearController
from gearshift.precision.gear_timing import time_gears
from gearshift.precision.gears import LOW, Shift, can_gear, geared, high_gear
from gearshift.precision.levels import Precision
from gearshift.precision.schedule import PrecisionSchedule
from gearshift.steps.install import watch_denoiser

SLOWER = 0.97  # a gear has to save more than what a measurement errs by


def gear_up(
    model: Any,
    context: Context,
    make: Any,
    alone: bool = False,
    economical: bool = False,
    weight_only: bool | None = None,
) -> list[GearController]:
    """Gears into the layers of every denoiser, and a gear controller to each.

    Args:
        make: makes the schedule for a number of steps and a scheduler.
        alone, economical, weight_only: as in `precision.gears.Geared`; weight_only None: as this machine does better.
    """
    assert context.applied is not None
    by = context.applied.algorithm.name
    weight_only = int8_is_slow({}) if weight_only is None else weight_only
    modules = denoisers(model)
    controllers, count, size = [], 0, 0
    for name, module in modules.items():
        gate, own = watch_denoiser(model, module, context), high_gear(module)
        for layer_gate in geared(_layers(module), alone, economical, weight_only):
            context.change(Shift(layer_gate, by))
            count, size = count + 1, size + layer_gate.nested.nbytes
        label = by if len(modules) == 1 else f"{by} ({name})"
        controllers.append(GearController(label, context.record, make, own))
        context.change(Engaged(gate, controllers[-1]))
    context.measured(layers=count, nested_bytes=size)
    if count and not weight_only:
        context.note("Activations are rounded too in low gears: to 8 bits, token by token or image by image.")
    return controllers


def bring_back(controllers: list[GearController], kept: dict[str, str]) -> None:
    """The plans that were found before; a run of another number of steps takes one of them resampled."""
    read = {key: PrecisionSchedule.from_json(text) for key, text in kept.items()}
    first = next(iter(read.values()))
    for controller in controllers:
        controller.schedules = dict(read)
        controller.make = partial(_resampled, first)


def _resampled(first: PrecisionSchedule, steps: int, scheduler: Any) -> PrecisionSchedule:
    return first.resampled(steps)


def _layers(module: Any) -> list[Any]:
    keep = describe_denoiser(module).left_alone
    return [layer for _, layer in select(module, (nn.Linear, nn.Conv2d), exclude=keep) if can_gear(layer)]


def int8_is_slow(times: dict[Precision, Seconds]) -> bool:
    """Whether the int8 product is no faster than that of the weights as they are: measured, or else by the CPU's kind.

    Rounding the inputs too is then a loss in quality for nothing.
    """
    if times:
        return not is_faster(times[Precision.INT8])
    return onednn.saturates()


def measured_times(model: Any, data: Any, batch_size: int = 1) -> dict[Precision, Seconds]:
    """Seconds of all denoisers in each gear, called as a pipeline calls them; empty where no call is known.

    The gears are timed before they are put in.
    """
    modules = list(denoisers(model).values())
    calls = example_arguments(model, modules, data, batch_size)
    layers = [layer for module in calls for layer in _layers(module)]
    if not layers:
        return {}

    def call() -> None:
        for module, (args, kwargs) in calls.items():
            module(*args, **kwargs)

    return time_gears(call, layers)


def is_faster(took: Seconds) -> bool:
    """Whether a gear saves more time than what measuring it errs by."""
    return took.now <= SLOWER * took.before and not took.is_noise


def tell_speed(context: Context, target: str, times: dict[Precision, Seconds]) -> None:
    """Say it where low gears do not save time here."""
    if not times:
        if not context.loading:
            context.note("No example call was at hand, so the speed of the gears was not measured.")
        return
    slow = {p: times[p].now / times[p].before for p in LOW if not is_faster(times[p])}
    if not slow:
        return
    told = " and ".join(f"{p.name} takes {ratio:.2f} times as long as {max(times).name}" for p, ratio in slow.items())
    say = context.warn if target == "speed" else context.note
    say(
        f"{told} on this machine at the sizes this model uses: low gears save memory here, not time, and round weights "
        "only."
    )


def time_costs(times: dict[Precision, Seconds], own: Precision) -> dict[Precision, float]:
    """Time of a step in each gear that saves some, over the high gear's."""
    return {p: took.now / took.before for p, took in times.items() if p != own and is_faster(took)} | {own: 1.0}


def memory_costs(own: Precision) -> dict[Precision, float]:
    """Bytes of weights that a step in each gear reads, over the high gear's."""
    return {**{p: p.memory_ratio() for p in LOW}, own: 1.0}
