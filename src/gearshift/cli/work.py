"""gearshift check, optimize, export, generate."""

from __future__ import annotations

import argparse
import inspect
import math
from pathlib import Path
from typing import Any

from gearshift.core.boundary import calling, path_of, reading, refuse_unwritable
from gearshift.core.devices import refuse_absent
from gearshift.core.errors import BadRecipe, GearshiftError, quoted
from gearshift.core.extras import need
from gearshift.core.files import replacing_file
from gearshift.core.recipe import Recipe
from gearshift.persist.libraries.diffusers import component_classes
from gearshift.persist.libraries.transformers import LOCAL
from gearshift.persist.readers import readers_of

MOST_SEED = 2**63 - 1


def check(arguments: argparse.Namespace) -> int:
    """Print the order of application, or every reason against it."""
    import gearshift as gs

    recipe = _recipe(arguments.recipe)
    if arguments.model is not None:
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
    from gearshift.persist.store import refuse_foreign

    recipe = _recipe(arguments.recipe)
    out = path_of(arguments.out, "--out")
    refuse_unwritable(out)
    refuse_foreign(out, arguments.overwrite)
    refuse_absent(arguments.device)
    model = open_model(arguments.model, arguments.device)
    settings = {"device": arguments.device} if arguments.device else {}
    model = gs.optimize(model, recipe, **settings, **readers_of(model))
    gs.save(model, out, overwrite=arguments.overwrite)
    print(gs.status(model))
    print(f'Saved. In Python: gearshift.load("{arguments.out}")')
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Open, write in another program's format."""
    import gearshift as gs

    out = path_of(arguments.folder, "FOLDER")
    refuse_unwritable(out)
    gs.export(open_model(arguments.model), out, arguments.format, overwrite=arguments.overwrite)
    print(f"Exported to {arguments.folder} as {arguments.format}.")
    return 0


def generate(arguments: argparse.Namespace) -> int:
    """Write one PNG per prompt."""
    import gearshift as gs

    torch = need("torch", "diffusers", "gearshift generate")
    _check_call(arguments)
    out = path_of(arguments.out, "--out")
    refuse_unwritable(out / "image.png")
    refuse_absent(arguments.device)
    pipe = gs.load(arguments.folder, arguments.device, trust_compiled=arguments.trust_compiled)
    if not hasattr(pipe, "scheduler"):
        raise GearshiftError(f"{arguments.folder} holds a {type(pipe).__name__}, which makes no images.")
    known = inspect.signature(type(pipe).__call__).parameters
    if "prompt" not in known:
        raise GearshiftError(f"{arguments.folder} holds a {type(pipe).__name__}, which reads no prompts.")
    generators = [torch.Generator().manual_seed(arguments.seed + i) for i in range(len(arguments.prompts))]
    given = {"num_inference_steps": arguments.steps, "guidance_scale": arguments.guidance}
    with calling(pipe, "these arguments"):
        images = pipe(
            prompt=arguments.prompts, generator=generators, **{k: v for k, v in given.items() if v is not None}
        ).images
    for i, (prompt, image) in enumerate(zip(arguments.prompts, images, strict=True)):
        words = "-".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())[:60]
        path = out / f"{words}-{arguments.seed + i}.png"
        with replacing_file(path) as scratch:
            image.save(scratch)
        print(path)
    return 0


def _recipe(text: str) -> Recipe:
    """A recipe that names something."""
    recipe = Recipe.of(text)
    if not recipe.algorithms:
        raise BadRecipe([f"The recipe {quoted(text)} names no algorithm; `gearshift list` shows all."])
    return recipe


def _check_call(arguments: argparse.Namespace) -> None:
    if arguments.steps is not None and arguments.steps < 1:
        raise GearshiftError(f"--steps must be 1 or more. Got {arguments.steps} instead.")
    if arguments.guidance is not None and not 0 <= arguments.guidance < math.inf:
        raise GearshiftError(f"--guidance must be a number of 0 or more. Got {arguments.guidance} instead.")
    if not 0 <= arguments.seed <= MOST_SEED - len(arguments.prompts):
        raise GearshiftError(f"--seed must be from 0 to {MOST_SEED}. Got {quoted(arguments.seed)} instead.")
    if not all(any(c.isalnum() for c in prompt) for prompt in arguments.prompts):
        raise GearshiftError("A prompt has no words; write what is to be shown.")


def _read(model: Any, folder: Path, transformers: Any) -> None:
    """Give a model the processor, or else the tokenizer, that lies in its folder."""
    if (folder / "preprocessor_config.json").is_file() or (folder / "processor_config.json").is_file():
        model.processor = transformers.AutoProcessor.from_pretrained(folder, **LOCAL)
    elif (folder / "tokenizer_config.json").is_file():
        model.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)


def open_model(where: str, device: str | None = None) -> Any:
    """A model from a folder or a hub id: gearshift's own, a diffusers pipeline or a transformers model.

    A pipeline comes in float32 for the CPU and in bfloat16 for any other device.
    """
    import gearshift as gs
    from gearshift.persist.libraries.diffusers import INDEX
    from gearshift.persist.manifest import MANIFEST

    folder = path_of(where, "A model")
    if (folder / MANIFEST).exists():
        return gs.load(folder)
    if folder.suffix == ".gguf":
        return gs.read_checkpoint(folder)
    if folder.exists() and not ((folder / INDEX).exists() or (folder / "config.json").exists()):
        raise GearshiftError(f"{where} holds no model: it has neither {INDEX} nor config.json.")
    given: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    with reading(where, "a model"):
        if (folder / "config.json").exists():
            transformers = need("transformers", "transformers", f"Opening {where}")
            config = transformers.AutoConfig.from_pretrained(where, **LOCAL)
            (architecture, *_) = config.architectures or ["AutoModel"]
            model = getattr(transformers, architecture).from_pretrained(where, local_files_only=True, **given)
            _read(model, folder, transformers)
            return model
        need("diffusers", "diffusers", f"Opening {where}")
        import torch
        from diffusers import DiffusionPipeline

        place = folder if folder.exists() else Path(DiffusionPipeline.download(where, **given))
        component_classes(place)  # before diffusers imports what is named there
        pipe = DiffusionPipeline.from_pretrained(place, local_files_only=True, **given)
        # parts that were stored in 16 bits and parts that were not are brought to one format: the device's fast one
        return pipe.to(torch.float32 if device is None or device == "cpu" else torch.bfloat16)
