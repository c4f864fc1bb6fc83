"""What is run of a pipeline in a sweep over many: caching at three places, quantizing, restoring, saving, loading."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import gearshift as gs
from gearshift.models.diffusers import denoisers, describe_denoiser

from .tiny import Tiny, build

STEPS = 6
EVERY_OTHER = {"start_step": 2}
RECIPES: dict[str, Any] = {
    "whole denoiser": {"periodic": {"cache_interval": 2, **EVERY_OTHER}},
    "stacks of blocks": {"flux_caching": {"cache_interval": 2, **EVERY_OTHER}},
    "each block": {"fora": {"interval": 2, **EVERY_OTHER}},
    "quantized": {"hqq_diffusers": {"group_size": 16}},
}


def inner(denoiser: Any) -> torch.nn.Module:
    """A module in the last stack of blocks that is called once in each pass, and not where the block is filled in."""
    row = describe_denoiser(denoiser)
    block = denoiser.get_submodule(row.blocks[-1])[0] if row.blocks else denoiser.up_blocks[0]
    return next(m for m in block.modules() if not list(m.children()))


@contextmanager
def counted(modules: list[torch.nn.Module]) -> Iterator[list[int]]:
    """How often modules are called."""
    counts = [0]

    def count(*_: Any) -> None:
        counts[0] += 1

    handles = [m.register_forward_pre_hook(count) for m in modules]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def swept(name: str, recipe: Any) -> str:
    """'works', with how many of a run's passes were computed, or the first thing that is wrong."""
    try:
        tiny = build(name)
        found = [inner(denoiser) for denoiser in denoisers(tiny.pipe).values()]
        with counted(found) as passes:
            plain = tiny.run(steps=STEPS)
        gs.optimize(tiny.pipe, recipe, keep_original=True)
        with counted(found) as computed:
            output = tiny.run(steps=STEPS)
        return _wrong(tiny, plain, output) or f"works: {computed[0]} of {passes[0]} passes computed"
    except Exception as error:  # it is what the table is for
        sentence = f"{type(error).__name__}: {error}".replace(f"{tempfile.gettempdir()}/", "")
        return f"fails: {' '.join(re.sub(r'tmp[a-z0-9_]{8}/', '', sentence).split())[:160]}"


def _wrong(tiny: Tiny, plain: torch.Tensor, output: torch.Tensor) -> str:
    """What is wrong with an optimized pipeline's output, with switching it off, saving, loading or restoring; or ''."""
    if not output.isfinite().all():
        return "fails: the output is not finite"
    if torch.equal(output, plain):
        return "fails: no effect"
    with gs.disabled(tiny.pipe):
        if not torch.equal(tiny.run(steps=STEPS), plain):
            return "fails: disabled, it differs from the original"
    with tempfile.TemporaryDirectory() as folder:
        gs.save(tiny.pipe, Path(folder) / "saved")
        if not torch.equal(tiny.run(steps=STEPS, pipe=gs.load(Path(folder) / "saved")), output):
            return "fails: loaded, it differs"
    gs.restore(tiny.pipe)
    return "" if torch.equal(tiny.run(steps=STEPS), plain) else "fails: restored, it differs from the original"
