"""Samples for quantizers that calibrate: the user's, or made-up ones, and what layers are given when they are run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gearshift.core.boundary import calling
from gearshift.core.context import Context
from gearshift.core.errors import BadRecipe, GearshiftError, told
from gearshift.core.model import evaluating
from gearshift.core.progress import track

STEPS = 10  # of a pipeline's call that does not say how many
OWN_TEXTS, OWN_TOKENS = 8, 64  # that a language model makes up
TOKENS = 2048  # the most that are read of a text
EMBEDDED = 16  # tokens of a made-up prompt of a pipeline without a text encoder
WIDTHS = ("cross_attention_dim", "joint_attention_dim", "caption_channels")  # of such prompts, in a denoiser's config


@contextmanager
def samples(context: Context, found: list[Any]) -> Iterator[None]:
    """Let these be the recipe's data for the length of a block."""
    before = context.recipe
    context.recipe = replace(before, data=found)
    try:
        yield
    finally:
        context.recipe = before


def readable(model: Any, context: Context) -> list[Any] | None:
    """The user's samples as what the model takes: texts as tokens, on its device, no more than it has positions for.

    None if there are none.

    Raises:
        BadRecipe: for data without an item, or texts without a tokenizer.
    """
    from gearshift.models.texts import cut_to_positions, texts

    recipe = context.recipe
    if recipe.data is None:
        return None
    speaks = hasattr(model, "get_input_embeddings")
    given = texts(recipe.data) if speaks else recipe.data
    read = [_item(model, item, recipe.tokenizer) for item in given]
    found = cut_to_positions(model, read) if speaks else read
    if not found:
        raise BadRecipe(["data has no item; calibration needs at least one."])
    return found


def made_up(model: Any, seed: int) -> Callable[[], list[Any]] | None:
    """What makes samples for a model that was given none; None if nothing is known that it could be called with.

    A pipeline gets prompts of random words, class labels, or embeddings of noise; a language model continues random
    tokens; what reads images or sound gets noise.
    """
    if not hasattr(model, "forward"):
        calls = _own_calls(model, seed)
        return None if calls is None else lambda: calls
    makers = {"pixel_values": _images, "input_features": _sound, "input_ids": _texts}
    kind = str(getattr(model, "main_input_name", None))
    if kind not in makers or not (kind == "pixel_values" or hasattr(model, "generate")):
        return None
    return lambda: [_with_answer(model, _placed(model, makers[kind](model, seed)))]


def trial(model: Any, item: Any) -> None:
    """Run a made-up sample once, as briefly as it can be.

    Raises:
        BadRecipe: if the model does not take it.
    """
    try:
        _run(model, item, 1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadRecipe(
            [f"Calibration needs `data`: what was made up for {type(model).__name__} it does not take ({told(error)})."]
        ) from None


def watch_inputs(
    model: Any, data: Iterable[Any], layers: Iterable[Any], see: Callable[[Any, Any], None], by: str
) -> None:
    """Run a model on samples; `see(layer, input)` is called whenever one of the layers is given an input.

    Args:
        by: the algorithm's name, for the progress that is shown.
    """
    import torch

    def look(layer: Any, args: tuple[Any, ...]) -> None:
        if args:
            see(layer, args[0].detach())

    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with torch.no_grad(), evaluating(model):
            for item in track(data, f"{by} calibrates"):
                _run(model, item)
    finally:
        for handle in handles:
            handle.remove()


def _run(model: Any, item: Any, steps: int = STEPS) -> None:
    import torch

    from gearshift.models.example import silent
    from gearshift.models.image_to_image import taking

    if hasattr(model, "forward"):
        model(**item) if isinstance(item, Mapping) else model(item)
        return
    known = inspect.signature(type(model).__call__).parameters
    brief = {k: v for k, v in {"num_inference_steps": steps, "output_type": "latent"}.items() if k in known}
    call = {**brief, **(item if isinstance(item, Mapping) else {"prompt": item})}
    with torch.random.fork_rng(), silent(model), calling(model, "the calibration data"):
        taking(model, call)(**call)


def _item(model: Any, item: Any, tokenizer: Any) -> Any:
    if not hasattr(model, "forward"):
        return item
    import torch

    place = next(model.parameters()).device
    if isinstance(item, str):
        if tokenizer is None:
            raise BadRecipe(["The data holds texts, and a model reads tokens: give a `tokenizer` as well."])
        item = tokenizer(item, return_tensors="pt", truncation=True, max_length=_longest(model, tokenizer))
    if isinstance(item, Mapping):
        return _with_answer(model, _placed(model, item))
    if isinstance(item, torch.Tensor):
        item = item.to(place)
        return item[None] if item.ndim == 1 and not item.is_floating_point() else item
    return item


def _placed(model: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """A call's tensors on the model's device, floating ones of its type."""
    import torch

    like = next(p for p in model.parameters() if p.is_floating_point())
    moved = {k: v.to(like.device) for k, v in call.items() if isinstance(v, torch.Tensor)}
    return {**call, **{k: v.to(like.dtype) if v.is_floating_point() else v for k, v in moved.items()}}


def _longest(model: Any, tokenizer: Any) -> int:
    from gearshift.models.texts import positions

    return min(TOKENS, positions(model) or TOKENS, getattr(tokenizer, "model_max_length", None) or TOKENS)


def _with_answer(model: Any, call: dict[str, Any]) -> dict[str, Any]:
    """With what a model of two halves makes of it, which is what its decoder would be given."""
    told = {"decoder_input_ids", "decoder_inputs_embeds", "labels"} & call.keys()
    if told or not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return call
    import torch

    with torch.no_grad():
        return {**call, "decoder_input_ids": model.generate(**call, max_new_tokens=OWN_TOKENS // 2)}


def _own_calls(pipe: Any, seed: int) -> list[Any] | None:
    from gearshift.training.diffusion import calls_of

    known = inspect.signature(type(pipe).__call__).parameters
    try:
        calls = calls_of(pipe, None, 1, seed)
    except GearshiftError:
        return _own_embeddings(pipe, known, seed)
    return calls if calls[0].keys() <= known.keys() else _own_embeddings(pipe, known, seed)


def _own_embeddings(pipe: Any, known: Mapping[str, Any], seed: int) -> list[Any] | None:
    """A call of a pipeline that was loaded without its text encoder, on a small image."""
    import torch

    from gearshift.models.diffusers import denoisers

    modules: list[Any] = list(denoisers(pipe).values())
    config: Mapping[str, Any] = next((module.config for module in modules), {})
    width = next((config[name] for name in WIDTHS if config.get(name)), None)
    if width is None or "prompt_embeds" not in known:
        return None
    pooled = config.get("pooled_projection_dim")
    shapes: dict[str, tuple[int, ...]] = {"prompt_embeds": (1, EMBEDDED, width)}
    shapes |= {"pooled_prompt_embeds": (1, pooled)} if pooled else {}
    shapes |= {f"negative_{name}": shape for name, shape in shapes.items() if f"negative_{name}" in known}
    generator = torch.Generator().manual_seed(seed)
    noise = {k: torch.randn(s, generator=generator).to(pipe.device, pipe.dtype) for k, s in shapes.items()}
    masks = {k: torch.ones(1, EMBEDDED, device=pipe.device) for k in known if k.endswith("prompt_attention_mask")}
    nothing = {k: None for k in ("prompt", "negative_prompt") if k in known}
    side = EMBEDDED * getattr(pipe, "vae_scale_factor", 8)
    plain = {"height": side, "width": side, "use_resolution_binning": False}
    return [{**noise, **masks, **nothing, **{k: v for k, v in plain.items() if k in known}}]


def _images(model: Any, seed: int) -> dict[str, Any]:
    side = getattr(model.config, "image_size", 224)
    return {"pixel_values": _noise(seed, OWN_TEXTS, getattr(model.config, "num_channels", 3), side, side)}


def _sound(model: Any, seed: int) -> dict[str, Any]:
    return {"input_features": _noise(seed, 1, model.config.num_mel_bins, 2 * model.config.max_source_positions)}


def _texts(model: Any, seed: int) -> dict[str, Any]:
    import torch

    from gearshift.training.language import own_text

    if not model.config.is_encoder_decoder:
        return {"input_ids": own_text(model, OWN_TOKENS, seed, OWN_TEXTS)}
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(model.config.vocab_size, (OWN_TEXTS, OWN_TOKENS // 2), generator=generator)}


def _noise(seed: int, *shape: int) -> Any:
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
