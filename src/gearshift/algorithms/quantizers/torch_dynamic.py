"""Int8 weights, activations rounded as they come."""

from __future__ import annotations

from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.facts import Facts, Family, Persist, Slot, Stage, Trait
from gearshift.core.param import param

WORTH_IT = 1.1  # below this a convolution's gain is within the noise of measuring it


class TorchDynamic(Algorithm):
    """Int8 weights with one scale for each output channel, and activations rounded to 8 bits as they come.

    Linear layers are replaced (embedders, modulation and the first and last projections of a denoiser, and the output
    head of a language model, stay as they are); convolutions only where int8 was measured to be faster here.
    """

    facts = Facts(
        family=Family.QUANTIZER,
        stage=Stage.QUANTIZE,
        persist=Persist.WEIGHTS,
        occupies={Slot.WEIGHT_FORMAT},
        needs={Trait.LINEAR, Trait.FLOAT_WEIGHTS},
        removes={Trait.FLOAT_WEIGHTS},
    )
    weight_bits: str = param(
        "qint8", choices=("quint8", "qint8"), help="symmetric int8 weights, or uint8 ones with a zero point"
    )

    def apply(self, model: Any, context: Context) -> None:
        from torch import nn

        from gearshift.core.model import size_bytes
        from gearshift.core.target import Swap, select
        from gearshift.kernels.speed import int8_twin
        from gearshift.models.example import layer_inputs

        seen = layer_inputs(model, context.recipe.data)
        before = size_bytes(model)
        paths: dict[str, list[str]] = {}
        ratios = _Ratios()
        for part, (root, keep) in _roots(model).items():
            paths[part] = []
            for path, layer in list(select(root, (nn.Linear, nn.Conv2d), exclude=keep)):
                ratio = ratios.of(layer, seen.get(layer))
                if isinstance(layer, nn.Conv2d) and ratio < WORTH_IT:
                    continue
                twin = int8_twin(layer, unsigned=self.weight_bits == "quint8")
                if twin is not None:
                    context.change(Swap(root, path, twin, layer if context.keep_original else None, self.name))
                    paths[part].append(path)
        context.save(parts=list(paths), paths=paths)
        context.measured(layers=sum(map(len, paths.values())), size_before=before, size_after=size_bytes(model))
        ratios.tell(context)

    def rebuild(self, model: Any, context: Context) -> None:
        from gearshift.core.model import parts
        from gearshift.core.target import Swap
        from gearshift.kernels.skeleton import int8_skeleton

        for part, paths in context.saved["paths"].items():
            root = parts(model)[part]
            for path in paths:
                empty = int8_skeleton(root.get_submodule(path), self.weight_bits == "quint8")
                context.change(Swap(root, path, empty, None, self.name))


class _Ratios:
    """Float seconds over int8 seconds, measured once for each size of layer and input."""

    def __init__(self) -> None:
        self._known: dict[tuple, float] = {}
        self._linear: list[tuple[float, float]] = []

    def of(self, layer: Any, input: Any) -> float:
        """How many times faster int8 is; 0 for a layer whose input was never seen."""
        from torch import nn

        from gearshift.kernels.speed import faster_than_float, int8_twin

        if input is None:
            return 0.0
        key = (type(layer), *layer.weight.shape, getattr(layer, "stride", None), *input.shape)
        if key not in self._known:
            self._known[key] = faster_than_float(layer, input, budget=30) if int8_twin(layer) is not None else 0.0
        if isinstance(layer, nn.Linear):
            self._linear.append((float(layer.weight.numel() * input.numel() / input.shape[-1]), self._known[key]))
        return self._known[key]

    def tell(self, context: Context) -> None:
        """Report the speed of the linear layers together, weighted by their work; warn if it is below float's."""
        work = sum(w for w, _ in self._linear)
        if not work:
            context.note(
                "No example call was at hand, so speed was not measured and convolutions were left as they are."
            )
            return
        ratio = work / sum(w / max(r, 1e-9) for w, r in self._linear)
        context.measured(linear_speed_over_float=ratio)
        if ratio < 1:
            context.warn(
                f"torch_dynamic saves memory here but its linear layers run at {ratio:.2f} times the speed of float "
                "ones at the sizes this model uses on this machine."
            )


def _roots(model: Any) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """What is quantized: a pipeline's denoisers or a module itself, each with the layers that are left alone."""
    from gearshift.core.model import parts
    from gearshift.models.diffusers import denoisers, describe_denoiser

    found = denoisers(model)
    if found:
        return {name: (module, describe_denoiser(module).keep) for name, module in found.items()}
    return {name: (module, ("lm_head", "proj_out", "embed*")) for name, module in parts(model).items()}
