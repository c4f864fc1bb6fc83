"""Small trained models for tests, demos and measurements: text-to-image, which ships, a DiT and a Flux.

Neither torch nor diffusers is imported before a model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import BrokenFolder, UnknownName

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

_HERE = Path(__file__).parent
_FOLDERS = {
    "text-to-image": _HERE / "models" / "text-to-image",
    "dit": _HERE.parents[2] / "zoo" / "dit",
    "flux": _HERE.parents[2] / "zoo" / "flux",
}
_ARGUMENTS: dict[str, dict[str, Any]] = {"flux": {"height": 32, "width": 32, "max_sequence_length": 12}}


def names() -> tuple[str, ...]:
    """The models that there are: a StableDiffusionPipeline, a DiTPipeline, and a FluxPipeline."""
    return tuple(_FOLDERS)


def required_arguments(name: str) -> dict[str, Any]:
    """What a model's pipeline has to be told at every call: sizes that its class guesses wrong."""
    return dict(_ARGUMENTS.get(name, {}))


def path(name: str, must_exist: bool = True) -> Path:
    """The folder of a model, in the layout of a diffusers pipeline with fp16 weights.

    Raises:
        UnknownName: no model of this name.
        BrokenFolder: the model is not there; all but text-to-image come with the repository, not with the package.
    """
    if name not in _FOLDERS:
        raise UnknownName("zoo model", name, _FOLDERS)
    folder = _FOLDERS[name]
    if must_exist and not (folder / "model_index.json").is_file():
        raise BrokenFolder(
            f"The zoo's model {name!r} is not in {folder}: it comes with a checkout of the repository, where "
            f"`python -m gearshift.zoo.train.{name.replace('-', '_')}` makes it anew."
        )
    return folder


def load(name: str = "text-to-image", dtype: torch.dtype | None = None, **kwargs: Any) -> DiffusionPipeline:
    """Load a model as a diffusers pipeline on the CPU, without a progress bar.

    Args:
        name: one of `names()`.
        dtype: of all weights; fp32 when not given, since CPUs are slow at fp16.
        kwargs: passed on to `from_pretrained`.

    Raises:
        UnknownName, BrokenFolder: as `path` does.
    """
    folder = path(name)
    import torch

    from .quiet import quiet_libraries

    with quiet_libraries():
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, **kwargs
        )
        pipeline.to(torch.float32 if dtype is None else dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
