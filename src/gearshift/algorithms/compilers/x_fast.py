"""Tracing, fused kernels and memory-efficient attention, for any model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gearshift.algorithms.common.compile_stats import Tally
from gearshift.algorithms.common.tracing import Traced
from gearshift.algorithms.compilers import compile_at, compile_behind, compiler_facts, repeated
from gearshift.core.algorithm import Algorithm
from gearshift.core.change import Change
from gearshift.core.context import Context
from gearshift.core.extras import installed
from gearshift.core.model import parts
from gearshift.core.param import param


class XFast(Algorithm):
    """Trace and freeze the modules of any model, with memory-efficient attention where there is a kernel for it.

    A denoiser is traced whole. Models that keep state between calls, as language and speech models do in their
    key-value cache, are traced piece by piece: the feed-forward parts of their repeated blocks. Attention goes to
    xformers on CUDA if it is installed, else to PyTorch's own kernel, which models of today call by themselves.
    """

    facts = compiler_facts()
    xformers: bool = param(True, choices=(True, False), help="use memory-efficient attention")

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.models.diffusers import denoisers
        from gearshift.steps.install import gate_at

        tally = Tally.of(context)
        make = lambda module: Traced(module, tally)  # noqa: E731
        if denoisers(model):
            compile_behind(model, context, make)
        else:
            compile_at([gate_at(module, context) for module in _stateless(model)], context, make)
        if self.xformers:
            _attend(model, context)


def _stateless(model: Any) -> Iterator[Any]:
    """Modules that get and give nothing but tensors: feed-forward parts of blocks; a model without blocks whole."""
    for part in parts(model).values():
        blocks = repeated(part)
        if blocks == [part]:
            yield part
        for block in blocks:
            if block is not part:
                yield from (m for name, m in block.named_children() if _is_feed_forward(name, m))


def _is_feed_forward(name: str, module: Any) -> bool:
    names = [name, *(n for n, _ in module.named_modules())]
    return not any("attn" in n or "attention" in n for n in names) and any(True for _ in module.parameters())


def _attend(model: Any, context: Context) -> None:
    """xformers' attention in a pipeline on CUDA; elsewhere say what is used instead."""
    from gearshift.models.describe import describe

    if describe(model).device == "cuda" and installed("xformers"):
        if hasattr(model, "enable_xformers_memory_efficient_attention"):
            context.change(Xformers(model))
        return
    reason = "xformers is not installed" if describe(model).device == "cuda" else "xformers has kernels for CUDA only"
    context.note(f"{reason}; attention runs in PyTorch's scaled_dot_product_attention.")


class Xformers(Change):
    """A pipeline's attention in xformers' kernels."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def apply(self) -> None:
        self.pipe.enable_xformers_memory_efficient_attention()

    def revert(self) -> None:
        self.pipe.disable_xformers_memory_efficient_attention()
