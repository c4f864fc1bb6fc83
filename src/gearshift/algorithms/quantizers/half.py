"""Cast to 16 bits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from gearshift.core.algorithm import Algorithm
from gearshift.core.boundary import calling
from gearshift.core.change import Change
from gearshift.core.context import Context
from gearshift.core.errors import BadRecipe, GearshiftError, told
from gearshift.core.facts import Facts, Family, Kind, Persist, Slot, Stage, Trait
from gearshift.core.model import parts
from gearshift.core.plain import PARTS


class Half(Algorithm):
    """Cast the weights to 16-bit floating point (float16).

    What transformers and diffusers keep in float32 stays so, as do tables that are computed at each start. An
    autoencoder is tried on an image before and after: one that overflows stays as it is. Weights beyond 65,504, and
    language models that overflow, are refused.
    """

    facts = Facts(
        family=Family.QUANTIZER,
        stage=Stage.QUANTIZE,
        persist=Persist.WEIGHTS,
        occupies={Slot.WEIGHT_FORMAT},
        needs={Trait.FLOAT_WEIGHTS},
    )

    saved_fields: ClassVar = {"parts": PARTS, "wide": PARTS}

    def check_model(self, model: Any, context: Context) -> list[str]:
        found = [f"{path} reaches {most:.3g}" for path, most in _too_large(model)]
        if not found:
            return []
        return [f"{self.name}: float16 ends at 65,504, and {', '.join(found[:3])}. bfloat16 has the range of float32."]

    def apply(self, model: Any, context: Context) -> None:
        from gearshift.measure.in_place import seconds_of
        from gearshift.models.float32 import OwnType

        fresh = not context.loading
        call = _timed_call(model, context) if fresh else None
        before = None if call is None else seconds_of(call)
        wide = self._overflowing(model, context) if fresh else context.saved.get("wide", [])
        for name, part in parts(model).items():
            context.change(OwnType(part) if name in wide else Cast(part, context.keep_original))
        context.save(parts=list(parts(model)), wide=wide)
        if call is not None and before is not None:
            self._tell(context, call, before)

    def _overflowing(self, model: Any, context: Context) -> list[str]:
        """Names of the autoencoders whose values float16 has no numbers for.

        Raises:
            GearshiftError: if that is the whole model.
        """
        from gearshift.models.float32 import END, is_autoencoder, largest_magnitude, run

        found = []
        for name, part in parts(model).items():
            upcast = hasattr(model, "upcast_vae") and getattr(getattr(part, "config", None), "force_upcast", False)
            call = partial(run, part) if is_autoencoder(part) else None if name else _call(model)
            if call is None or upcast:
                continue
            with largest_magnitude(part) as most:
                ran = call()
            if not ran:
                context.note(f"{type(part).__name__} took no image, so its range in float16 is not known.")
            if most() <= END:
                continue
            what = f"{self.name}: {type(part).__name__} overflows in float16: values reach {most():.3g}"
            if not name:
                raise GearshiftError(f"{what}. Load it in bfloat16, which has the range of float32.")
            found.append(name)
            context.warn(f"{what}, so it stays in {str(part.dtype).removeprefix('torch.')}.")
        return found

    def _tell(self, context: Context, call: Callable[[], Any], before: float) -> None:
        """How long a call takes now, over what it took before."""
        from gearshift.measure.in_place import seconds_of

        try:
            slower = seconds_of(call) / before
        except BadRecipe as error:
            context.note(f"{self.name} was not timed: {told(error)}")
            return
        context.measured(call_seconds_over_float32=slower)
        if slower >= 1.1:
            context.warn(
                f"{self.name} makes calls of the model take {slower:.1f} times as long as before on this machine: it "
                "halves the memory here, and saves time on a GPU."
            )


@dataclass(eq=False)
class Cast(Change):
    """The floating-point tensors of a module in float16, but for those that `models.float32` leaves out."""

    part: Any
    keep: bool
    originals: list[Any] = field(default_factory=list)

    def apply(self) -> None:
        import torch

        from gearshift.models.float32 import narrow

        self.originals = []
        for module, name, tensor in list(narrow(self.part)):
            if self.keep:
                self.originals.append((module, name, tensor.data))
            _set(module, name, tensor.data.to(torch.float16))

    def revert(self) -> None:
        for module, name, tensor in reversed(self.originals):  # a tied weight is there twice, first as it was
            _set(module, name, tensor.to(getattr(module, name).device))

    def irreversible_reason(self) -> str | None:
        if self.keep:
            return None
        return "half rounded the weights and the originals were not kept; keep_original=True would have kept them."


def _set(module: Any, name: str, tensor: Any) -> None:
    """Give a module's parameter or buffer another tensor; a parameter stays the same object."""
    if name in module._parameters:
        module._parameters[name].data = tensor
    else:
        module._buffers[name] = tensor


def _too_large(model: Any) -> Iterator[tuple[str, float]]:
    """Weights that float16 has no numbers for, but for those of autoencoders, which are tried."""
    import torch

    from gearshift.models.float32 import is_autoencoder, narrow

    for part_name, part in parts(model).items():
        if part_name and is_autoencoder(part):
            continue
        paths = {module: path for path, module in part.named_modules()}
        for module, name, tensor in narrow(part):
            if tensor.is_meta or not tensor.numel():
                continue
            most = float(tensor.detach().abs().max())
            if torch.finfo(torch.float16).max < most < float("inf"):
                yield ".".join(filter(None, (part_name, paths[module], name))), most


def _timed_call(model: Any, context: Context) -> Callable[[], Any] | None:
    """The call that is timed before and after; None where the model cannot be called with what is known."""
    from gearshift.models.example import example_call

    call = example_call(model, context.recipe.data, context.recipe.batch_size)

    def run() -> None:
        assert call is not None
        with calling(model, "the first item of data"):
            call()

    try:
        if call is not None:
            run()
    except BadRecipe:
        return None
    return None if call is None else run


def _call(model: Any) -> Callable[[], bool] | None:
    """A call of a language model with a few tokens; None for other models."""
    import torch

    from gearshift.models.describe import describe

    if describe(model).kind is not Kind.LANGUAGE:
        return None
    size, device = model.get_input_embeddings().weight.shape[0], next(model.parameters()).device
    tokens = torch.randint(0, size, (1, 16), generator=torch.Generator().manual_seed(0)).to(device)
    call = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {})

    def run() -> bool:
        with torch.no_grad():
            model(**call)
        return True

    return run


def slower_than_float32(size: int = 384, repeats: int = 5) -> float:
    """Seconds of a float16 matrix product over those of a float32 one, on the CPU of this machine."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(size, size, dtype=dtype)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(torch.float16) / seconds(torch.float32)
