"""Published few-step adapters: what each family is sampled with, and merging one into a pipeline's weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gearshift.core.errors import BadValue, GearshiftError, told
from gearshift.core.model import parts

NAME = "gearshift_few_steps"  # diffusers' name for the adapter while it is merged
WEIGHTS = ".safetensors"
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TRAILING = {"timestep_spacing": "trailing"}


@dataclass(frozen=True)
class AdapterFamily:
    """What the adapters of one method have in common.

    Attributes:
        name: the method's.
        words: a pattern of the words that adapters' names have, in small letters.
        scheduler: the class that samples with them, where the pipeline's noise is a schedule of alphas.
        settings: of that scheduler.
        scale: what the adapter is multiplied by when it is merged.
    """

    name: str
    words: str
    scheduler: str
    settings: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0


FAMILIES = (
    AdapterFamily("Hyper-SD for flow models", r"hyper[-_. ]?(flux|sd3)", "TCDScheduler", scale=0.125),
    AdapterFamily("Hyper-SD", r"hyper[-_. ]?sd", "TCDScheduler"),
    AdapterFamily("TCD", r"(?<![a-z])tcd", "TCDScheduler"),
    AdapterFamily("LCM", r"(?<![a-z])lcm|latent[-_ ]consistency", "LCMScheduler"),
    AdapterFamily("DMD", r"(?<![a-z])dmd", "LCMScheduler"),
    AdapterFamily("Flash Diffusion", r"(?<![a-z])flash(?![a-z])", "LCMScheduler", TRAILING),
    AdapterFamily(
        "PCM", r"(?<![a-z])pcm", "DDIMScheduler", {**TRAILING, "clip_sample": False, "set_alpha_to_one": False}
    ),
    AdapterFamily("Lightning", r"lightning", "EulerDiscreteScheduler", TRAILING),
    AdapterFamily("Turbo", r"(?<![a-z])turbo", "EulerAncestralDiscreteScheduler", TRAILING),
)
UNKNOWN = FAMILIES[1]


@dataclass(frozen=True)
class Adapter:
    """One published adapter: where it is, and what its names and metadata tell.

    Attributes:
        source: a file, a folder with one, or 'owner/name:file' or 'owner/name' on the hub.
        family: None if nothing tells it.
        steps: None likewise.
        guided: whether it is made to be sampled with guidance.
    """

    source: str
    family: AdapterFamily | None
    steps: int | None
    guided: bool


def adapter(source: str) -> Adapter:
    """What is known of the adapter at a place.

    Raises:
        BadValue: if the place is a file that is not there, or that holds a pickle.
    """
    place = Path(source).expanduser()
    if place.suffix in OTHER_WEIGHTS:
        raise BadValue(f"The adapter {source} is a pickle, which can run code; a {WEIGHTS} file is needed.")
    local = (source.endswith(WEIGHTS) and ":" not in source) or source.startswith((".", "~", "/"))
    if local and not place.exists():
        raise BadValue(f"The adapter {source} is not there. It is a {WEIGHTS} file, or 'owner/name:file' on the hub.")
    file = source.rpartition(":")[2] if not place.exists() else place.name
    told = [file, *_metadata(place), str(place.parent.name if place.is_file() else source)]
    families = (next((f for f in FAMILIES if re.search(f.words, text.lower())), None) for text in told)
    steps = next((int(m[1]) for text in told if (m := re.search(r"(\d+)[-_ ]?step", text.lower()))), None)
    guided = any("cfg" in text.lower() and not re.search(r"no[-_]?cfg", text.lower()) for text in told)
    return Adapter(str(place) if place.exists() else source, next(filter(None, families), None), steps, guided)


def merge(pipe: Any, given: Adapter, scale: float) -> list[tuple[Any, Any]]:
    """Merge an adapter, times a scale, into the pipeline's weights.

    Returns:
        The parameters that changed, each with the tensor that it held before.

    Raises:
        GearshiftError: if it cannot be read, or does not fit; the weights are as they were.
    """
    before = [(p, p.data) for part in parts(pipe).values() for p in part.parameters()]
    try:
        _fuse(pipe, given, scale)
    except BaseException as error:
        pipe.unload_lora_weights()
        for parameter, data in before:
            parameter.data = data
        if not isinstance(error, Exception):
            raise
        reason = told(error)
        if not Path(given.source).exists() and isinstance(error, OSError | ValueError):
            raise GearshiftError(
                f"The adapter {given.source} is no file here, and cannot be had from the hub as 'owner/name:file': "
                f"{reason}"
            ) from error
        raise GearshiftError(
            f"The adapter {given.source} does not fit this {type(pipe).__name__}, or cannot be read: {reason}"
        ) from error
    pipe.unload_lora_weights()
    return [(p, data) for p, data in before if p.data_ptr() != data.data_ptr()]


def sampler(family: AdapterFamily, config: Any) -> Any:
    """The family's scheduler for the noise that another scheduler's configuration describes."""
    import diffusers

    return getattr(diffusers, family.scheduler).from_config(config, **family.settings)


def _fuse(pipe: Any, given: Adapter, scale: float) -> None:
    """Load and merge; the merged weights are other tensors than those before."""
    _load(pipe, given.source)
    if not any(NAME in names for names in pipe.get_list_adapters().values()):
        raise GearshiftError("none of its tensors belongs to a layer of this pipeline")
    pipe.fuse_lora(adapter_names=[NAME], lora_scale=scale, safe_fusing=True)


def _load(pipe: Any, source: str) -> None:
    place = Path(source)
    folder, file = (str(place.parent), place.name) if place.is_file() else (source, None)
    if not place.exists():
        folder, _, named = source.partition(":")
        file = named or None
    pipe.load_lora_weights(folder, weight_name=file, adapter_name=NAME, use_safetensors=True)


def _metadata(place: Path) -> list[str]:
    """Texts of a file's header that may name the method."""
    if not place.is_file():
        return []
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(place), "pt") as file:
            found = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BadValue(f"The adapter {place} cannot be read as safetensors: {told(error)}") from None
    return [str(value)[:200] for value in found.values()]
