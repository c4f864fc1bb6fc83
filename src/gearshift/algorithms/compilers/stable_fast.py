"""Traced, frozen graphs for image pipelines."""

from __future__ import annotations

from typing import Any

from gearshift.algorithms.common.compile_stats import Tally
from gearshift.algorithms.common.tracing import Traced
from gearshift.algorithms.compilers import compile_behind, compiler_facts
from gearshift.core.algorithm import Algorithm
from gearshift.core.change import Change
from gearshift.core.context import Context
from gearshift.core.facts import Kind
from gearshift.core.model import parts


class StableFast(Algorithm):
    """Trace the denoiser, freeze its graph and fuse operations in it, with convolutions in channels-last layout.

    Starts in a second or so where inductor takes minutes, needs no C++ compiler, and makes a new graph for each new
    shape by itself, and where the model was changed: its adapters, attention processors, hooks or weights. Inductor's
    code is faster once it is there. On CUDA the graphs are captured. After the project stable-fast, which builds on
    old releases only.
    """

    facts = compiler_facts(frozenset({Kind.DIFFUSION}))

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.models.diffusers import denoisers

        tally = Tally.of(context)
        for denoiser in (denoisers(model) or parts(model)).values():
            context.change(ChannelsLast(denoiser))
        compile_behind(model, context, lambda module: Traced(module, tally))


class ChannelsLast(Change):
    """Convolution weights laid out with channels last, which their kernels take faster; values stay as they are."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def apply(self) -> None:
        self._lay_out("channels_last")

    def revert(self) -> None:
        self._lay_out("contiguous_format")

    def _lay_out(self, layout: str) -> None:
        import torch
        from torch import nn

        for layer in self.module.modules():
            if isinstance(layer, nn.Conv2d) and isinstance(layer._parameters.get("weight"), nn.Parameter):
                layer.weight.data = layer.weight.data.contiguous(memory_format=getattr(torch, layout))
