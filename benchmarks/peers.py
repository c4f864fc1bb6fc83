"""Caching by others, each at the setting whose time is nearest to a wanted one: diffusers' hooks, cache-dit, DeepCache.

Settings are tried on the search prompts. Of those within 5 % of the wanted time the closest to the uncached images is
taken, so that a peer with several knobs gets the best of them; where there is none, the nearest in time.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import torch

from gearshift.evaluate.metrics import psnr
from gearshift.evaluate.timing import call_seconds

NEAR = 0.05
WAYS = {  # modules of each transformer that TaylorSeer extrapolates and, in its lite mode, that it leaves out
    "FluxTransformer2DModel": {"attention": None, "lite": None},
    "DiTTransformer2DModel": {"attention": [r"transformer_blocks\.\d+\.attn1"], "lite": ["proj_out_2"]},
}
BLOCKS = [r"transformer_blocks\.\d+"]

NOTE = (
    "Peers' settings are those whose time on 8 search prompts is nearest to the planned one, and of those within "
    f"{NEAR:.0%} of it the closest to the original. What a peer computes within a step is its own affair, so its steps "
    "are not counted. DiT has no cache context and no `enable_cache` in diffusers: its hooks are applied by hand. "
    "DPM++ 2M and UniPC take flux's flow sigmas and its shift.\n"
)
Setting = dict[str, Any]
Make = Callable[[Any], torch.Tensor]  # a pipeline's images of the search prompts


@dataclass(frozen=True)
class Bench:
    """What peers are tried on: how to load the model, how to make images, in how many steps."""

    load: Callable[[], Any]
    make: Make
    steps: int


@dataclass(frozen=True)
class Peer:
    """One peer: its settings in words and values, given the number of steps, and what puts one on a pipeline."""

    settings: Callable[[int], dict[str, Setting]]
    apply: Callable[[Any, Bench, Setting], None]


@dataclass(frozen=True)
class Trial:
    """One setting on the search prompts."""

    words: str
    pipe: Any
    seconds: float
    psnr: float


def around(levels: tuple[Any, ...], name: str, **fixed: Any) -> Callable[[int], dict[str, Setting]]:
    """One knob over a list."""
    return lambda steps: {f"{name.split('_')[-1]} {level}": {name: level, **fixed} for level in levels}


def enable(pipe: Any, config: Any) -> None:
    """diffusers' caches: `enable_cache` where there is one; a DiT has neither that nor a cache context, so by hand."""
    from diffusers import hooks

    if not hasattr(pipe, "transformer"):
        raise TypeError("diffusers' caches are for transformers, not for a U-Net")
    transformer = pipe.transformer
    if hasattr(transformer, "enable_cache"):
        transformer.enable_cache(config)
        return
    appliers = {
        hooks.TaylorSeerCacheConfig: hooks.apply_taylorseer_cache,
        hooks.FirstBlockCacheConfig: hooks.apply_first_block_cache,
        hooks.MagCacheConfig: hooks.apply_mag_cache,
    }
    appliers[type(config)](transformer, config)
    context, forward = hooks.hooks.CacheContext("cond"), transformer.forward

    def called(*args: Any, **kwargs: Any) -> Any:
        hooks.hooks._set_cache_context(transformer, context)
        return forward(*args, **kwargs)

    registry = hooks.HookRegistry.check_if_exists_or_initialize(transformer)
    transformer.forward = called
    transformer._reset_stateful_cache = lambda: registry.reset_stateful_hooks(recurse=True)  # at the end of a call


def first_block(pipe: Any, bench: Bench, setting: Setting) -> None:
    from diffusers.hooks import FirstBlockCacheConfig

    enable(pipe, FirstBlockCacheConfig(**setting))


def taylorseer(pipe: Any, bench: Bench, setting: Setting) -> None:
    """TaylorSeer on attention as it does by default, or in its lite mode on the model's last projection."""
    from diffusers.hooks import TaylorSeerCacheConfig

    lite = setting["mode"] == "lite"
    named = WAYS.get(type(getattr(pipe, "transformer", None)).__name__, {}).get(setting["mode"])
    chosen: Setting = {"use_lite_mode": lite} if named is None else {"cache_identifiers": named}
    if named is not None and lite:
        chosen["skip_predict_identifiers"] = BLOCKS
    rest = {k: v for k, v in setting.items() if k != "mode"}
    enable(pipe, TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32, **rest, **chosen))


def magcache(pipe: Any, bench: Bench, setting: Setting) -> None:
    """MagCache with the ratios that its calibration prints for the search prompts."""
    from diffusers.hooks import MagCacheConfig

    judged, printed = bench.load(), io.StringIO()
    enable(judged, MagCacheConfig(calibrate=True, num_inference_steps=bench.steps))
    with contextlib.redirect_stdout(printed):
        bench.make(judged)
    ratios = ast.literal_eval(next(line for line in printed.getvalue().splitlines() if line.startswith("[1.0")))
    enable(pipe, MagCacheConfig(mag_ratios=ratios, num_inference_steps=bench.steps, **setting))


def mag_settings(steps: int) -> dict[str, Setting]:
    """Its own ranges (2 to 6 steps skipped, a fifth or a tenth of all kept at the start) and a little beyond."""
    found = {}
    for most, kept, errors in (
        (2, 0.2, (0.06, 1.0)),
        (4, 0.2, (0.12, 1.0)),
        (6, 0.1, (0.12, 0.3, 2.0)),
        (9, 0.06, (3.0,)),
    ):
        for error in errors:
            setting = {"threshold": error, "max_skip_steps": most, "retention_ratio": kept}
            found[f"threshold {error}, skips {most}, keeps {kept:.0%}"] = setting
    return found


def cache_dit(pipe: Any, bench: Bench, setting: Setting) -> None:
    """cache-dit's DBCache F1B0, with or without its TaylorSeer, by threshold or by a mask of steps."""
    import cache_dit as package

    # It wraps the pipeline's class: one of this pipeline's own, so that others stay as they are.
    cls = type(pipe)
    pipe.__class__ = type(cls.__name__, (cls,), {"__module__": cls.__module__, "__call__": cls.__call__})
    mask = setting.get("mask")
    ways: Setting = {"steps_computation_mask": mask, "steps_computation_policy": "static"} if mask else {}
    config = package.DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=setting.get("warmup", 2),
        residual_diff_threshold=setting.get("threshold", 0.08),
        num_inference_steps=bench.steps,
        **ways,
    )
    calibrator = package.TaylorSeerCalibratorConfig(taylorseer_order=1) if setting["taylor"] else None
    package.enable_cache(pipe, cache_config=config, calibrator_config=calibrator)


def masks(steps: int) -> dict[str, Setting]:
    """cache-dit's own masks and even ones."""
    import cache_dit as package

    found = {
        name: package.steps_mask(total_steps=steps, mask_policy=name) for name in ("slow", "medium", "fast", "ultra")
    }
    found |= {f"every {k}": [int(i < 2 or (i - 2) % k == 0) for i in range(steps)] for k in range(2, 11)}
    return {f"mask {name}": {"mask": mask, "taylor": True} for name, mask in found.items()}


def deepcache(pipe: Any, bench: Bench, setting: Setting) -> None:
    from DeepCache import DeepCacheSDHelper

    if not hasattr(pipe, "unet"):
        raise TypeError("DeepCache is for U-Nets")
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(**setting)
    helper.enable()


def branches(steps: int) -> dict[str, Setting]:
    """Intervals, and branches from the outermost inwards."""
    pairs = [(interval, branch) for branch in (0, 1) for interval in (2, 3, 4, 5, 7, 10)]
    return {f"interval {i}, branch {b}": {"cache_interval": i, "cache_branch_id": b} for i, b in pairs}


INTERVALS = (2, 3, 4, 5, 6, 7, 9)
LEVELS = (0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3, 0.45, 0.7, 1.2)
PEERS = {
    "diffusers TaylorSeer": Peer(around(INTERVALS, "cache_interval", mode="attention"), taylorseer),
    "diffusers TaylorSeer lite": Peer(around(INTERVALS, "cache_interval", mode="lite"), taylorseer),
    "diffusers TaylorSeer lite, order 2": Peer(
        around(INTERVALS, "cache_interval", mode="lite", max_order=2), taylorseer
    ),
    "diffusers FirstBlockCache": Peer(around(LEVELS, "threshold"), first_block),
    "diffusers MagCache": Peer(mag_settings, magcache),
    "cache-dit DBCache": Peer(around(LEVELS, "threshold", taylor=False), cache_dit),
    "cache-dit DBCache + TaylorSeer": Peer(around(LEVELS, "threshold", taylor=True), cache_dit),
    "cache-dit mask + TaylorSeer": Peer(masks, cache_dit),
    "DeepCache": Peer(branches, deepcache),
}


def timed(bench: Bench, pipe: Any) -> tuple[float, torch.Tensor]:
    """The faster of two runs, and the images."""
    images: list[torch.Tensor] = []
    return min(call_seconds(lambda: images.append(bench.make(pipe))) for _ in range(2)), images[-1]


def trials(peer: Peer, bench: Bench, reference: torch.Tensor, whole: float) -> list[Trial]:
    """Every setting on the search prompts.

    Raises:
        RuntimeError: no setting changes anything: the same images in the same time as `whole`.
    """
    found = []
    for words, setting in peer.settings(bench.steps).items():
        pipe = bench.load()
        peer.apply(pipe, bench, setting)
        seconds, images = timed(bench, pipe)
        # NaNs and overshoots are results too, of a setting that is too fast for the model.
        images = images.nan_to_num(0.0).clamp(0, 1)
        same = torch.equal(images, reference)
        found.append(Trial(words, pipe, seconds, inf if same else psnr(images, reference)))
    if all(t.psnr == inf and t.seconds > (1 - NEAR) * whole for t in found):
        raise RuntimeError("does nothing: same images, same time at every setting")
    return found


def nearest(found: list[Trial], seconds: float) -> Trial:
    """The closest to the uncached images of those near this time, else the nearest in time."""
    near = [t for t in found if abs(t.seconds / seconds - 1) <= NEAR]
    return max(near, key=lambda t: t.psnr) if near else min(found, key=lambda t: abs(t.seconds - seconds))


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Without what the peers log."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def chosen(bench: Bench, wanted: dict[int, float]) -> tuple[dict[str, Any], dict[str, str]]:
    """Pipelines by row name, for each count of steps with its wanted seconds; and what failed, with why."""
    rows: dict[str, Any] = {}
    failures: dict[str, str] = {}
    with hushed():
        whole, reference = timed(bench, bench.load())
        for name, peer in PEERS.items():
            try:
                found = trials(peer, bench, reference, whole)
            except Exception as error:  # whatever a peer does, the others are measured
                failures[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[
                    :160
                ]
                continue
            for count, seconds in wanted.items():
                trial = nearest(found, seconds)
                rows[f"{count}: {name} ({trial.words})"] = trial.pipe
    return rows, failures
