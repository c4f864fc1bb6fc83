"""Few-step distillation: each long step has to end where the original's many short ones do.

The run is cut into segments (trajectory-segmented consistency, Hyper-SD, Ren et al. 2024, arXiv 2404.13686), and at the
start of each the denoiser learns the output that takes the scheduler to the segment's end in one step. Guidance is
distilled with it (Meng et al. 2022, arXiv 2210.03142): the original runs with it, the student without.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gearshift.core.errors import BadRecipe
from gearshift.core.progress import track
from gearshift.models.diffusers import denoisers, describe_denoiser
from gearshift.models.example import silent
from gearshift.steps.tree import mapped, tensors

SHORT = 12  # steps of the original in each segment


@dataclass
class SigmaSegment:
    """One call of the denoiser at a segment's start, and the output that would lead to its end.

    Attributes:
        output: [n, ...] as the scheduler gets it.
        weight: what an error of the output does to the sample at the end, over that sample's size.
    """

    part: str
    args: tuple
    kwargs: dict[str, Any]
    output: torch.Tensor
    weight: float


class SameEnd(nn.Module):
    """Relative squared error of the sample at a segment's end."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.by_part = dict(modules)
        self.held = nn.ModuleList(modules.values())

    def forward(self, segment: SigmaSegment) -> torch.Tensor:
        given = tensors(self.by_part[segment.part](*segment.args, **segment.kwargs))[0]
        given = given[:, : segment.output.shape[1]]  # some predict a variance besides
        return segment.weight**2 * (given.float() - segment.output).square().mean()


def unguided(pipe: Any) -> dict[str, Any]:
    """The arguments that turn guidance off, where it is a second pass and not a number that the denoiser takes."""
    kinds = {describe_denoiser(m).guidance for m in denoisers(pipe).values()}
    return {} if kinds <= {"embedded", "none"} else {"guidance_scale": 1.0}


@torch.no_grad()
def segments(pipe: Any, calls: list[dict[str, Any]], steps: int, seed: int) -> list[SigmaSegment]:
    """What a student of so many steps learns from runs of the original, each with noise of its own.

    Raises:
        BadRecipe: if the pipeline's scheduler does not go from sample to sample in single steps, or changes the
            denoiser's output before it gets it.
    """
    found: list[SigmaSegment] = []
    with silent(pipe), torch.random.fork_rng():
        for number, call in enumerate(track(calls, "recording where the original's steps end")):
            path = _path(pipe, call, steps * SHORT, seed + number)
            ends = [path[(k + 1) * SHORT - 1] for k in range(steps)]
            found += _forced(pipe, {**call, **unguided(pipe)}, ends, seed + number)
    return found


def _run(pipe: Any, call: dict[str, Any], steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pipe(**{**call, "num_inference_steps": steps, "output_type": "latent", "generator": generator})


def _path(pipe: Any, call: dict[str, Any], steps: int, seed: int) -> list[torch.Tensor]:
    """The samples after each step of the original's run."""
    path: list[torch.Tensor] = []

    def step(own: Callable[..., Any], output: Any, timestep: Any, sample: Any, **more: Any) -> Any:
        answer = own(output, timestep, sample, **more)
        path.append(_sample(answer))
        return answer

    with _stepping(pipe.scheduler, step):
        _run(pipe, call, steps, seed)
    if len(path) != steps:
        raise BadRecipe([f"{type(pipe.scheduler).__name__} made {len(path)} steps of {steps}: no steps to distil."])
    return path


def _forced(pipe: Any, call: dict[str, Any], ends: list[torch.Tensor], seed: int) -> list[SigmaSegment]:
    """Run with few steps, put onto the original's path after each; the calls, and what they should have answered."""
    asked: list[tuple[str, tuple, dict[str, Any], torch.Tensor]] = []
    found: list[SigmaSegment] = []

    def step(own: Callable[..., Any], output: Any, timestep: Any, sample: Any, **more: Any) -> Any:
        part, args, kwargs, raw = asked[-1]
        if not torch.equal(raw[:, : output.shape[1]], output):
            raise BadRecipe([f"{type(pipe).__name__} changes what a step is given; it cannot be distilled."])
        twin = copy.deepcopy(pipe.scheduler)
        slope = _sample(_plain(twin)(output + 1.0, timestep, sample, **more)).double()
        answer = own(output, timestep, sample, **more)
        slope = (slope - _sample(answer).double()).mean()
        end = ends[len(found)][: len(sample)]  # DiT's pipeline keeps every latent twice while it is guided
        wanted = output.double() + (end.double() - _sample(answer).double()) / slope
        weight = float(slope.abs() / end.double().square().mean().sqrt())
        found.append(SigmaSegment(part, args, kwargs, wanted.float(), weight))
        return (end, *answer[1:]) if isinstance(answer, tuple) else _with(answer, end)

    with _stepping(pipe.scheduler, step), _asking(pipe, asked):
        _run(pipe, call, len(ends), seed)
    return found


@contextmanager
def _stepping(scheduler: Any, step: Callable[..., Any]) -> Iterator[None]:
    """The scheduler's `step` through a function that gets it first."""
    held = vars(scheduler).get("step")
    own = scheduler.step
    vars(scheduler)["step"] = lambda *args, **kwargs: step(own, *args, **kwargs)
    try:
        yield
    finally:
        if held is None:
            del vars(scheduler)["step"]
        else:
            vars(scheduler)["step"] = held


def _plain(scheduler: Any) -> Callable[..., Any]:
    """The class's own step of a scheduler."""
    return type(scheduler).step.__get__(scheduler)


@contextmanager
def _asking(pipe: Any, asked: list[Any]) -> Iterator[None]:
    """Write down what the denoisers are asked and what they answer."""

    def listener(part: str) -> Any:
        def listen(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            plain = mapped(args, torch.Tensor.detach), mapped(kwargs, torch.Tensor.detach)
            asked.append((part, *plain, tensors(output)[0]))

        return listen

    handles = [m.register_forward_hook(listener(p), with_kwargs=True) for p, m in denoisers(pipe).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sample(answer: Any) -> torch.Tensor:
    return answer[0] if isinstance(answer, tuple) else answer.prev_sample


def _with(answer: Any, sample: torch.Tensor) -> Any:
    answer.prev_sample = sample
    return answer
