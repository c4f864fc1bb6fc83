"""What kind of model this is, and which traits it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gearshift.core.facts import Kind, Trait
from gearshift.core.model import Runtime, parts
from gearshift.core.recipe import Recipe
from gearshift.models.diffusers import denoisers, describe_denoiser
from gearshift.models.layers import other_weights, replaceable

HEADS = ("lm_head", "proj_out", "embed*", "score", "classifier")


@dataclass(frozen=True)
class Description:
    """A model's kind and traits, the type of device it runs on, and whether weights are offloaded leaf by leaf.

    Such weights are only there while their layer runs, so they are none of the traits.
    """

    kind: Kind
    traits: frozenset[Trait]
    device: str
    offloaded: bool = False


def describe(model: Any) -> Description:
    """Look at a pipeline or module.

    Raises:
        WrongModel: if it is neither.
    """
    import torch

    modules = list(parts(model).values())
    if isinstance(model, Runtime):
        return Description(model.kind, model.traits, "cpu")
    found = denoisers(model)
    traits = {Trait.TORCH_MODULE, Trait.TORCH_FORWARD}
    weights = [p for part in modules for p in part.parameters()]
    offloaded = any(p.is_meta for p in weights)
    if not offloaded:
        if any(isinstance(m, torch.nn.Linear) for part in modules for m in part.modules()):
            traits.add(Trait.LINEAR)
        if any(p.is_floating_point() for p in weights):
            traits.add(Trait.FLOAT_WEIGHTS)
    for denoiser in found.values():
        row = describe_denoiser(denoiser)
        traits.add(Trait.DENOISES)
        if row.blocks or row.unet:
            traits.add(Trait.BLOCKS)
        if row.blocks:
            traits.add(Trait.STACKS)
        if row.unet:
            traits.add(Trait.UNET)
        if any(hasattr(m, "to_q") for m in denoiser.modules()):
            traits.add(Trait.ATTENTION)
        if hasattr(model, "vae") or hasattr(model, "image_processor"):
            traits.add(Trait.IMAGES)
    return Description(_kind(model, bool(found)), frozenset(traits), _device(modules, weights), offloaded)


def _device(modules: list[Any], weights: list[Any]) -> str:
    """Where weights are, or where the hooks that offload them leaf by leaf bring them to."""
    import torch

    held = [p.device for p in weights if not p.is_meta]
    brought = (
        getattr(getattr(m, "_hf_hook", None), "execution_device", None) for part in modules for m in part.modules()
    )
    return next((torch.device(d).type for d in (*held, *brought) if d is not None), "cpu")


def _kind(model: Any, denoises: bool) -> Kind:
    if denoises:
        return Kind.DIFFUSION
    if "Whisper" in type(model).__name__:
        return Kind.SPEECH
    return Kind.LANGUAGE if hasattr(model, "generate") and hasattr(model, "config") else Kind.OTHER


def chosen(model: Any, types: tuple[type, ...], recipe: Recipe) -> Iterator[tuple[str, Any, str]]:
    """The layers that a recipe works on, as (part, root, path): its `include`, or all but those that are to be left."""
    for part, root, globs in _within(model, recipe):
        for path, _, reason in list(replaceable(root, types, *globs)):
            if reason is None:
                yield part, root, path


def passed_over(model: Any, types: tuple[type, ...], recipe: Recipe) -> dict[str, str]:
    """Why layers that a recipe asks for, and other large weights, are left: reasons by name."""
    found: dict[str, str] = {}
    for part, root, globs in _within(model, recipe):
        reasons = [(path, reason) for path, _, reason in replaceable(root, types, *globs) if reason is not None]
        for path, reason in (*reasons, *other_weights(root, *globs)):
            found[f"{part}.{path}" if part else path] = reason
    return found


def _within(model: Any, recipe: Recipe) -> Iterator[tuple[str, Any, tuple[Any, Any]]]:
    """Each part that is worked on, with the globs of what is and is not."""
    for part, (root, keep) in layers_to_leave(model).items():
        globs = (recipe.include, recipe.exclude) if recipe.include else (("*",), (*keep, *recipe.exclude))
        yield part, root, globs


def layers_to_leave(model: Any) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """What quantizers work on, by part: a pipeline's denoisers or the model itself, each with globs of what they leave.

    A denoiser's row names its embedders, modulation and first and last projections; a language or speech model's are
    its embeddings and output head.
    """
    found = denoisers(model)
    if found:
        return {name: (module, describe_denoiser(module).left_alone) for name, module in found.items()}
    return {name: (module, (*HEADS, *_output_head(module))) for name, module in parts(model).items()}


def _output_head(module: Any) -> tuple[str, ...]:
    """The path of a language model's output head, whatever it is called."""
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    return tuple(path for path, found in module.named_modules() if found is head and path)
