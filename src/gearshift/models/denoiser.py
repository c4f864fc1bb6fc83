"""The row: what gearshift must know of a denoiser class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["self", "cross", "joint", "temporal"]
Attention = tuple[tuple[Kind, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Denoiser:
    """Where a denoiser class keeps its parts and how its stock pipeline calls it. Patterns are `fnmatch` globs.

    Attributes:
        blocks: module lists of the repeated blocks, in the order they run; one class within a list. In a table row a
            path may be a glob, and a list may be missing from a module whose config has no such block.
        attention: kind -> names of attention modules. 'joint' attends over text and sample tokens together,
            'temporal' over the frames of one place.
        guidance: classifier-free guidance is one call on a doubled batch ('batched'), two calls ('separate'), a
            number that the denoiser takes ('embedded'), or not there ('none').
        cond_first: the conditional half, or call, comes before the unconditional one.
        sample, timestep, text: names of forward's arguments. The sample comes first; Z-Image's is a list of tensors.
        timestep_scale, timestep_offset: argument = scheduler timestep * scale + offset.
        scaled_by: name of a config entry that the pipeline multiplies the timestep by.
        output: the sign that the pipeline gives the output before the scheduler gets it; 0: not known.
        keep: layers that quantizers leave alone: embedders, adaptive norms' modulation, first and last projections.
        refiners: small stacks that run before `blocks` and are left out of them.
        interleaved: the lists of `blocks` take turns, block by block, instead of running one after another.
        unet: has down, middle and up blocks that are joined by skips.
    """

    blocks: tuple[str, ...]
    attention: Attention
    guidance: Literal["batched", "separate", "embedded", "none"] = "batched"
    cond_first: bool = False
    sample: str = "hidden_states"
    timestep: str | None = "timestep"
    text: str | None = "encoder_hidden_states"
    timestep_scale: float = 1.0
    timestep_offset: float = 0.0
    scaled_by: str | None = None
    output: float = 1.0
    keep: tuple[str, ...] = ()
    refiners: tuple[str, ...] = ()
    interleaved: bool = False
    unet: bool = False

    @property
    def left_alone(self) -> tuple[str, ...]:
        """`keep` as globs of whole paths (see `core.target.select`): a block's own 'proj_out' is none of the ends."""
        return tuple(f".{glob}" for glob in self.keep)
