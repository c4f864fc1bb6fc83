"""One small call of a model, so that an algorithm can see the shapes that its layers are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from gearshift.core.boundary import calling
from gearshift.core.errors import BadRecipe
from gearshift.core.examples import first
from gearshift.core.model import evaluating, parts
from gearshift.models.calls import SILENT
from gearshift.models.image_to_image import taking
from gearshift.models.texts import cut_to_positions, texts

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def example_call(model: Any, data: Any = None, batch_size: int = 1) -> Callable[[], Any] | None:
    """A call that runs the model once, as briefly as it can; None if nothing is known that it could be called with.

    Args:
        model: a pipeline or a module.
        data: an iterable whose first item is a dict of the model's arguments, or what it takes as its only one; without
            it, a pipeline that reads prompts gets an empty one and a language model a few tokens, as it does for text.
            Encoder-decoder models take more than one argument, so nothing but a dict is known to fit them.
        batch_size: images or texts at once, where `data` leaves that open.
    """
    speaks = hasattr(model, "generate") and hasattr(model, "get_input_embeddings")
    given = first(cut_to_positions(model, islice(texts(data), 1)) if speaks else data)
    if not hasattr(model, "forward"):
        if given is None:
            given = {"prompt": ""} if reads_prompts(model) else None
        elif not isinstance(given, Mapping):
            given = {"prompt": given}
        return (
            None
            if given is None
            else lambda: quietly(model, {**_brief(model), **given, **_batch(model, given, batch_size)})
        )
    if isinstance(given, Mapping):
        return lambda: _evaluated(model, **given)
    speaks = hasattr(model, "generate") and hasattr(model, "get_input_embeddings")
    if given is not None and not speaks:
        return lambda: _evaluated(model, given)
    if speaks and not model.config.is_encoder_decoder:
        import torch

        tokens = torch.zeros(batch_size, 32, dtype=torch.long, device=next(model.parameters()).device)
        return lambda: _evaluated(model, input_ids=tokens)
    return None


def _evaluated(model: Any, *args: Any, **kwargs: Any) -> Any:
    with evaluating(model):
        return model(*args, **kwargs)


def layer_inputs(model: Any, data: Any = None, batch_size: int = 1) -> dict[Any, Any]:
    """The newest input of each linear layer and convolution in one example call; empty without one.

    Raises:
        BadRecipe: if the model cannot be called with the first item of `data`.
    """
    from torch import nn

    layers = [m for p in parts(model).values() for m in p.modules() if type(m) in (nn.Linear, nn.Conv2d)]
    given = example_arguments(model, layers, data, batch_size)
    return {layer: args[0].detach() for layer, (args, _) in given.items() if args}


def example_arguments(
    model: Any, modules: Iterable[Any], data: Any = None, batch_size: int = 1
) -> dict[Any, Arguments]:
    """What modules of a model were last called with in one example call; empty without one.

    Raises:
        BadRecipe: if the model cannot be called with the first item of `data`.
    """
    import torch

    call = example_call(model, data, batch_size)
    if call is None:
        return {}
    seen: dict[Any, Arguments] = {}

    def listen(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[module] = args, kwargs

    handles = [module.register_forward_pre_hook(listen, with_kwargs=True) for module in modules]
    try:
        with torch.no_grad(), calling(model, "the first item of data"):
            call()
    except BadRecipe:
        if data is not None:
            raise
        return {}  # what was made up is not for every pipeline
    finally:
        for handle in handles:
            handle.remove()
    return seen


def quietly(pipe: Any, call: Mapping[str, Any]) -> Any:
    """Call a pipeline in evaluation mode without a progress bar, and leave torch's random state as it was."""
    import torch

    with torch.random.fork_rng(), silent(pipe), evaluating(pipe), calling(pipe, "the arguments given"):
        return taking(pipe, call)(**call)


@contextmanager
def silent(pipe: Any) -> Iterator[None]:
    """For calls of gearshift's own: without the pipeline's progress bar, and without a word about latents."""
    shown = dict(getattr(pipe, "_progress_bar_config", {}))
    able = hasattr(pipe, "set_progress_bar_config")
    told = SILENT.set(True)
    try:
        if able:
            pipe.set_progress_bar_config(**{**shown, "disable": True})
        yield
    finally:
        SILENT.reset(told)
        if able:
            pipe.set_progress_bar_config(**shown)


def reads_prompts(pipe: Any) -> bool:
    """Whether it takes prompts, and has a text encoder and its tokenizer."""

    def has(name: str) -> bool:
        return getattr(pipe, name, None) is not None

    read = any(has(f"text_encoder{n}") and has(f"tokenizer{n}") for n in ("", "_2", "_3"))
    return read and "prompt" in inspect.signature(type(pipe).__call__).parameters


def _batch(pipe: Any, call: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """What makes a batch of a call for one sample: more images for its prompt, or its class label several times."""
    known = inspect.signature(type(pipe).__call__).parameters
    if batch_size == 1 or any(isinstance(v, (list, tuple)) and len(v) > 1 for v in call.values()):
        return {}
    labels = call.get("class_labels")
    if isinstance(labels, (list, tuple)):
        return {"class_labels": [*labels] * batch_size}
    name = next((n for n in ("num_images_per_prompt", "num_videos_per_prompt") if n in known), None)
    return {} if name is None else {name: batch_size}


def _brief(pipe: Any) -> dict[str, Any]:
    """Arguments that keep a pipeline's call short, where it has them."""
    known = inspect.signature(type(pipe).__call__).parameters
    return {k: v for k, v in {"num_inference_steps": 1, "output_type": "latent"}.items() if k in known}
