"""What each layer's replacement does to a denoiser's answers, measured on a few calls of an example run.

Why this is measured and not told from the layers: on three trained denoisers (DiT, Flux, U-Net; 48, 40 and 70 layers,
HIGGS at 4 bits), the rank correlation of a measure with the truth, which is the error of the final latents with that
layer alone replaced; and the SQNR in dB of final latents with the 20 % of layers in float that the measure names, the
mean of two runs on other prompts and seeds than it was measured on.

| measure                                          | correlation      | SQNR             |
|--------------------------------------------------|------------------|------------------|
| the denoiser's answers at the 4 calls of 4 steps | .92   .91   .90  | 33.0  36.7  35.5 |
| the same at the first call alone                 | .72   .87   .84  | 33.2  36.7  35.2 |
| the same at 8 calls of 10 steps                  | .92   .88   .89  | 33.0  36.7  35.1 |
| the layer's own answers, relative                | -.30  .28  -.12  | 30.7  33.5  34.2 |
| the layer's weight, squared error                | .35   .04  -.29  | 32.4  33.5  35.9 |
| chance                                           | -.05 -.27  -.09  | 30.8  32.8  34.6 |
| the truth                                        | 1     1     1    | 33.5  36.0  37.2 |
| (no layer in float)                              |                  | 29.6  32.0  33.8 |

The weights name the largest layers: in the U-Net's case 59 % of all weights, where the denoiser's answers name 20 %.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gearshift.algorithms.quantizers import Place
from gearshift.core.context import Context
from gearshift.core.progress import track
from gearshift.core.target import put

STEPS = 4  # of the example run, where the user's does not say how many
MOST_CALLS = 8  # of the denoisers that are kept of it
MOST_SECONDS = 600.0


@dataclass
class Call:
    """A denoiser, what it was called with, and the tensors that it answers with all layers in float."""

    denoiser: Any
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    exact: list[Any]

    def answer(self) -> list[Any]:
        """The tensors that the denoiser answers now."""
        import torch

        from gearshift.steps.tree import tensors

        with torch.no_grad():
            return tensors(self.denoiser(*self.args, **self.keywords))

    def error(self) -> float:
        """Squared, relative to the exact answer."""
        pairs = list(zip(self.answer(), self.exact, strict=True))
        size = sum(float(exact.float().square().sum()) for _, exact in pairs)
        return sum(float((now.float() - exact.float()).square().sum()) for now, exact in pairs) / max(size, 1e-30)


def of_layers(model: Any, places: list[Place], new: Mapping[str, Any], context: Context) -> dict[str, float] | None:
    """The relative squared error of a denoiser's answers with one layer replaced, for each layer.

    None, with a note, if no example call is known, or if it would take more than ten minutes.
    """
    told = "Which layers stay in float was decided from their weights alone"
    calls = _recorded(model, places, context)
    if calls is None:
        context.note(f"{told}: no example call is known; give `data` for measuring what each does to the output.")
        return None
    seconds = _seconds(calls, places)
    if seconds > MOST_SECONDS:
        calls = {key: some[len(some) // 2 :][:1] for key, some in calls.items()}
        seconds = _seconds(calls, places)
    if seconds > MOST_SECONDS:
        context.note(f"{told}: measuring what each does to the output would have taken {seconds / 60:.0f} minutes.")
        return None
    assert context.applied is not None
    shown = track(places, f"{context.applied.algorithm.name} measures what rounding each layer does to the output")
    return {str(place): _alone(place, new[str(place)], calls[id(place.root)]) for place in shown}


def of_weights(places: list[Place], new: Mapping[str, Any]) -> dict[str, float]:
    """The squared error of each layer's weight."""
    return {
        str(place): float((new[str(place)].weight - place.layer.weight.detach()).float().square().sum())
        for place in places
    }


def _alone(place: Place, quantized: Any, calls: list[Call]) -> float:
    """The error with this layer replaced, on average over calls."""
    layer = place.layer
    put(place.root, place.path, quantized)
    try:
        return sum(call.error() for call in calls) / len(calls)
    finally:
        put(place.root, place.path, layer)


def _recorded(model: Any, places: list[Place], context: Context) -> dict[int, list[Call]] | None:
    """Calls of an example run, evenly spread over it, by the id of their denoiser; None if one was not reached."""
    import torch

    run = _example(model, context.recipe.data)
    if run is None:
        return None
    calls: dict[int, list[Call]] = {id(place.root): [] for place in places}
    counts = dict.fromkeys(calls, 0)
    apart = dict.fromkeys(calls, 1)

    def note(denoiser: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        key = id(denoiser)
        if counts[key] % apart[key] == 0:
            calls[key].append(Call(denoiser, args, keywords, []))
        counts[key] += 1
        if len(calls[key]) > MOST_CALLS:
            calls[key], apart[key] = calls[key][::2], 2 * apart[key]

    roots = {id(place.root): place.root for place in places}
    handles = [root.register_forward_pre_hook(note, with_kwargs=True) for root in roots.values()]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(context.recipe.seed)
            run()
    finally:
        for handle in handles:
            handle.remove()
    return calls if all(calls.values()) else None


def _example(model: Any, data: Any) -> Callable[[], Any] | None:
    """The example call, a pipeline's with a few steps if it does not say how many."""
    from gearshift.models.example import example_call

    given = next(iter(data), None) if data is not None else None
    if hasattr(model, "forward") or "num_inference_steps" not in inspect.signature(type(model).__call__).parameters:
        return example_call(model, None if given is None else [given])
    if given is None and example_call(model) is None:
        return None
    call = given if isinstance(given, Mapping) else {"prompt": given or ""}
    return example_call(model, [{"num_inference_steps": STEPS, **call}])


def _seconds(calls: dict[int, list[Call]], places: list[Place]) -> float:
    """How long all calls take for all places; on the way, fills in the exact answers."""
    import torch

    total = 0.0
    for key, some in calls.items():
        started = time.perf_counter()
        for call in some:
            call.exact = call.answer()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        total += (time.perf_counter() - started) * sum(id(place.root) == key for place in places)
    return total
