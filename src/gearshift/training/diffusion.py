"""What a denoiser is trained on: its own calls along runs of the original pipeline, and what the original answered."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gearshift.core.errors import BadRecipe
from gearshift.core.model import parts
from gearshift.core.progress import track
from gearshift.models.diffusers import denoisers
from gearshift.models.example import silent
from gearshift.models.image_to_image import taking
from gearshift.steps.install import watched_steps
from gearshift.steps.run import Run, current
from gearshift.steps.tree import mapped, tensors

OWN_CALLS = 8
OWN_STEPS = 20
WORDS = 4  # of a prompt that is made up
GUIDED = 1e-4  # share of the square of what the scheduler gets that guidance may leave unexplained
STRENGTHS = (0.5, 1.0, 0.25, 0.75)  # shares of the schedule, in turns, of calls that start from images of one's own


@dataclass
class DistillationSample:
    """One call of a denoiser, and the output that is to be met.

    Attributes:
        part: the denoiser's name in the pipeline.
        run, step: the sampling run and its step, from 0, that the call belongs to; None where nothing tells.
        guidance: how the pipeline combined the halves of a doubled batch: first + guidance * (second - first); None if
            it did not.
    """

    part: str
    args: tuple
    kwargs: dict[str, Any]
    output: Any
    run: Run | None = None
    step: int = 0
    guidance: float | None = None

    def combined(self, output: Any) -> list[torch.Tensor]:
        """The tensors of an output of this call as the pipeline goes on with them, float32."""
        found = [t.float() for t in tensors(output)]
        if self.guidance is None:
            return found
        return [first + self.guidance * (second - first) for first, second in (t.chunk(2) for t in found)]


class SameOutput(nn.Module):
    """Mean squared error of a denoiser's output in one recorded call, over the mean square of the original's.

    Guidance is part of the output: it makes errors larger that the two passes do not share.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.modules_by_part = dict(modules)
        self.held = nn.ModuleList(modules.values())

    def forward(self, training_sample: DistillationSample) -> torch.Tensor:
        given = self.modules_by_part[training_sample.part](*training_sample.args, **training_sample.kwargs)
        pairs = zip(training_sample.combined(given), training_sample.combined(training_sample.output), strict=True)
        return torch.stack([(a - b).square().mean() / b.square().mean().clamp_min(1e-12) for a, b in pairs]).mean()


def calls_of(pipe: Any, data: Any, batch: int, seed: int) -> list[dict[str, Any]]:
    """The calls of a pipeline that it is to learn from.

    Args:
        data: dicts of the pipeline's arguments, which may have an `image` to start from, or prompts, of which `batch`
            make one call; None: prompts of random words of its tokenizer's vocabulary, or random class labels.

    Raises:
        BadRecipe: if none are given and the pipeline reads neither prompts nor class labels.
    """
    if data is None:
        return _made_up(pipe, batch, seed)
    calls, prompts = [], []
    for item in data:
        if isinstance(item, Mapping):
            calls.append(dict(item))
        elif isinstance(item, str):
            prompts.append(item)
        else:
            raise BadRecipe([f"An item of data is a prompt or a dict of arguments. Got {type(item).__name__}."])
    return calls + [{"prompt": prompts[i : i + batch]} for i in range(0, len(prompts), batch)]


def _made_up(pipe: Any, batch: int, seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is not None:
        words = sorted(w.replace("</w>", "").strip("▁Ġ") for w in tokenizer.get_vocab() if _is_word(w))
        draw = [[" ".join(chance.choices(words, k=WORDS)) for _ in range(batch)] for _ in range(OWN_CALLS)]
        return [{"prompt": prompts} for prompts in draw]
    for module in denoisers(pipe).values():
        classes = getattr(module.config, "num_embeds_ada_norm", None)
        if classes:
            most = min(int(classes), 1000)
            return [{"class_labels": [chance.randrange(most) for _ in range(batch)]} for _ in range(OWN_CALLS)]
    raise BadRecipe(["Without a tokenizer no prompts can be made up: give `data`, dicts of the pipeline's arguments."])


def _is_word(token: str) -> bool:
    """Whether an entry of a vocabulary ends or begins a word, and looks like one."""
    bare = token.replace("</w>", "").strip("▁Ġ")
    return len(bare) >= 3 and bare.isascii() and bare.isalpha() and bare != token


@torch.no_grad()
def distillation_samples(pipe: Any, calls: list[dict[str, Any]], seed: int) -> list[DistillationSample]:
    """Run the calls and write down what every denoiser was asked and answered, each with noise of its own.

    Calls with an `image` that the pipeline itself does not read start from it, noised as far as a share of the
    schedule, each call by another one.

    Raises:
        WrongModel: if images are given and diffusers has no pipeline that starts from them.
    """
    found: list[DistillationSample] = []
    with _listening(pipe, found), silent(pipe), torch.random.fork_rng():
        for number, call in enumerate(track(calls, "recording what the original answers")):
            generator = torch.Generator().manual_seed(seed + number)
            given = {"num_inference_steps": OWN_STEPS, "output_type": "latent", "generator": generator}
            target = taking(pipe, call)
            if target is not pipe:
                given["strength"] = STRENGTHS[number % len(STRENGTHS)]
            target(**{**given, **call})
    return found


class Guidance:
    """Hears what the scheduler is given on each step, and tells the step's samples how guidance made it."""

    def __init__(self, found: list[DistillationSample]) -> None:
        self.found = found

    def note(self, run: Run, output: Any, sample: Any, result: Any) -> Any:
        for training_sample in reversed(self.found):
            if training_sample.run is not run or training_sample.step != run.step:
                break
            training_sample.guidance = _guidance(tensors(training_sample.output), output)
        return result


def _guidance(answers: list[torch.Tensor], made: torch.Tensor) -> float | None:
    """See `Lesson.guidance`; more channels than the scheduler gets, and equal halves that it gets, do no harm."""
    if len(answers) != 1 or len(answers[0]) % 2:
        return None
    first, second = answers[0].float().chunk(2)
    made = made.float()
    if len(made) == len(answers[0]) and torch.equal(*made.chunk(2)):
        made = made.chunk(2)[0]
    first, second = first[:, : made.shape[1]], second[:, : made.shape[1]]
    if first.shape != made.shape:
        return None
    apart = second - first
    weight = ((made - first) * apart).sum() / apart.square().sum().clamp_min(1e-30)
    left = made - first - weight * apart
    return float(weight) if left.square().sum() <= GUIDED * made.square().sum() else None


@contextmanager
def _listening(pipe: Any, found: list[DistillationSample]) -> Iterator[None]:
    def listener(part: str) -> Any:
        def listen(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            kept, run = mapped(output, lambda t: t.detach().clone()), current()
            if run is not None:
                run.recording = Guidance(found)
            given = mapped(args, torch.Tensor.detach), mapped(kwargs, torch.Tensor.detach)
            found.append(DistillationSample(part, *given, kept, run, run.step if run is not None else 0))

        return listen

    handles = [
        module.register_forward_hook(listener(part), with_kwargs=True) for part, module in denoisers(pipe).items()
    ]
    try:
        with watched_steps(pipe):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def offloaded(pipe: Any, wanted: bool) -> Iterator[None]:
    """Keep a pipeline's other parts on the CPU for the length of a block, where its denoisers are on a GPU."""
    trained = denoisers(pipe).values()
    away = [m for m in parts(pipe).values() if wanted and not any(m is t for t in trained)]
    places = {m: p.device for m in away if (p := next(m.parameters(), None)) is not None and p.device.type != "cpu"}
    for module in places:
        module.to("cpu")
    try:
        yield
    finally:
        for module, device in places.items():
            module.to(device)
