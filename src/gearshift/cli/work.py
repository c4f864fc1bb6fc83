"""gearshift check, optimize, generate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gearshift.core.errors import BadRecipe, GearshiftError
from gearshift.core.extras import need
from gearshift.core.files import replacing_file
from gearshift.core.recipe import Recipe


def check(arguments: argparse.Namespace) -> int:
    """Print the order of application, or every reason against it."""
    import gearshift as gs

    recipe = Recipe.of(arguments.recipe)
    if arguments.model:
        found = gs.problems(open_model(arguments.model), recipe)
        if found:
            raise BadRecipe(found)
    for place, algorithm in enumerate(recipe, 1):
        params = ", ".join(f"{name}={value!r}" for name, value in algorithm.values().items())
        print(f"{place}. {algorithm.name}({params}): {type(algorithm).summary()}")
    print("This recipe can be applied" + (f" to {arguments.model}." if arguments.model else "."))
    return 0


def optimize(arguments: argparse.Namespace) -> int:
    """Open, optimize, save."""
    import gearshift as gs
    from gearshift.core.store import refuse_foreign

    recipe = Recipe.of(arguments.recipe)
    refuse_foreign(Path(arguments.out))
    model = open_model(arguments.model, arguments.device)
    gs.optimize(model, recipe, **({"device": arguments.device} if arguments.device else {}))
    gs.save(model, arguments.out)
    print(gs.status(model))
    print(f'Saved. In Python: gearshift.load("{arguments.out}")')
    return 0


def generate(arguments: argparse.Namespace) -> int:
    """Write one PNG per prompt."""
    import gearshift as gs

    torch = need("torch", "diffusers", "gearshift generate")
    if arguments.steps < 1:
        raise GearshiftError(f"--steps must be 1 or more. Got {arguments.steps} instead.")
    pipe = gs.load(arguments.folder, arguments.device)
    if not hasattr(pipe, "scheduler"):
        raise GearshiftError(f"{arguments.folder} holds a {type(pipe).__name__}, which makes no images.")
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    generators = [torch.Generator().manual_seed(arguments.seed + i) for i in range(len(arguments.prompts))]
    images = pipe(
        prompt=arguments.prompts,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        generator=generators,
    ).images
    for i, (prompt, image) in enumerate(zip(arguments.prompts, images, strict=True)):
        words = "-".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())[:60]
        path = out / f"{words or 'image'}-{arguments.seed + i}.png"
        with replacing_file(path) as scratch:
            image.save(scratch)
        print(path)
    return 0


def open_model(where: str, device: str | None = None) -> Any:
    """A model from a folder or a hub id: gearshift's own, a diffusers pipeline or a transformers model.

    A pipeline comes in float32 for the CPU and in bfloat16 for any other device.
    """
    import gearshift as gs
    from gearshift.core.manifest import MANIFEST

    folder = Path(where)
    if (folder / MANIFEST).exists():
        return gs.load(folder)
    if folder.exists() and not ((folder / "model_index.json").exists() or (folder / "config.json").exists()):
        raise GearshiftError(f"{where} holds no model: it has neither model_index.json nor config.json.")
    try:
        if (folder / "config.json").exists():
            transformers = need("transformers", "transformers", f"Opening {where}")
            (architecture, *_) = transformers.AutoConfig.from_pretrained(where).architectures or ["AutoModel"]
            return getattr(transformers, architecture).from_pretrained(where)
        need("diffusers", "diffusers", f"Opening {where}")
        import torch
        from diffusers import DiffusionPipeline

        pipe = DiffusionPipeline.from_pretrained(where)
        # parts that were stored in 16 bits and parts that were not are brought to one format: the device's fast one
        return pipe.to(torch.float32 if device is None or device == "cpu" else torch.bfloat16)
    except (OSError, ValueError) as error:
        raise GearshiftError(f"{where} cannot be opened: {' '.join(str(error).split())[:300]}") from None
