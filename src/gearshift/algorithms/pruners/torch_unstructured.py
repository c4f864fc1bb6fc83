"""Single weights set to zero."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Facts, Family, Persist, Stage, Trait
from gearshift.core.param import param
from gearshift.core.target import Written


class TorchUnstructured(Algorithm):
    """Set single weights of linear layers and convolutions to zero, in each layer the same share of them.

    Weights go by their magnitude (Han et al. 2015, arXiv 1506.02626) or at random. No mask stays behind, and a saved
    folder is one that the model's own library loads. Zeros alone make nothing faster: dense kernels multiply them.
    """

    facts = Facts(
        family=Family.PRUNER,
        stage=Stage.PRUNE,
        persist=Persist.WEIGHTS,
        needs={Trait.FLOAT_WEIGHTS, Trait.TORCH_FORWARD},
    )
    pruning_method: str = param(
        "l1", choices=("random", "l1"), help="which weights go: any, by the seed, or those of least magnitude"
    )
    sparsity: float = param(0.1, between=(0.0, 1.0), help="share of each layer's weights that is set to zero")

    def apply(self, model: Any, context: Context) -> None:
        import torch

        generator = torch.Generator().manual_seed(context.recipe.seed)
        inputs = _inputs(model, context)
        largest, zeros, weights = None, 0, 0
        change = Written(self.name, context.keep_original, "set weights to zero")
        context.change(change)
        for layer in _layers(model, context):
            change.put(layer.weight, layer.weight.data * self._kept(layer.weight, generator))
            zeros, weights = zeros + int((layer.weight == 0).sum()), weights + layer.weight.numel()
            if layer in inputs and (largest is None or layer.weight.numel() > largest.weight.numel()):
                largest = layer
        context.measured(zeros=zeros, share_of_zeros=zeros / max(weights, 1))
        _tell(context, largest, inputs.get(largest))

    def rebuild(self, model: Any, context: Context) -> None:
        """Nothing to do: the zeros are in the saved weights."""

    def _kept(self, weight: Any, generator: Any) -> Any:
        """A mask of the weights that stay; exactly round(sparsity * n) go, the first of equal ones."""
        import torch

        count = round(self.sparsity * weight.numel())
        score = weight.detach().abs().flatten().float()
        if self.pruning_method == "random":
            score = torch.rand(weight.numel(), generator=generator).to(weight.device)
        keep = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
        keep[score.argsort(stable=True)[:count]] = False
        return keep.view_as(weight)


def _layers(model: Any, context: Context) -> Iterator[Any]:
    from torch import nn

    from gearshift.models.describe import chosen

    for _, root, path in chosen(model, (nn.Linear, nn.Conv2d), context.recipe):
        yield root.get_submodule(path)


def _inputs(model: Any, context: Context) -> dict[Any, Any]:
    from torch import nn

    from gearshift.models.example import layer_inputs

    return {m: x for m, x in layer_inputs(model, context.recipe.data).items() if isinstance(m, nn.Linear)}


def _tell(context: Context, layer: Any, example: Any) -> None:
    """Say whether a sparse product would be faster, at the largest linear layer and the input that it has."""
    if layer is None:
        context.note("Zeros alone save neither time nor memory: dense kernels multiply them like other weights.")
        return
    ratio = _sparse_over_dense(layer, example)
    context.measured(sparse_product_speed_over_dense=ratio)
    verdict = "faster, in a runtime with sparse kernels" if ratio > 1 else "slower than the dense one, which is kept"
    context.note(
        f"Zeros alone save neither time nor memory. A sparse (CSR) product of the largest layer would be {verdict}: "
        f"{ratio:.2f} times the dense speed here."
    )


def _sparse_over_dense(linear: Any, example_input: Any, budget: float = 20.0) -> float:
    """How many times faster a CSR matrix with the zeros of a layer's weight answers an input than the layer does."""

    from torch import nn

    from gearshift.measure.timing import speed_ratio

    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
                self.matrix = linear.weight.detach().float().to_sparse_csr()

        def forward(self, x: Any) -> Any:
            return self.matrix @ x.flatten(0, -2).float().T

    return speed_ratio(linear, Sparse(), example_input, budget)
