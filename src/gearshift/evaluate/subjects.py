"""How each kind of model is called when it is measured, and what it answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gearshift.core.boundary import calling
from gearshift.core.errors import BadValue
from gearshift.core.facts import Kind
from gearshift.core.model import evaluating, parts
from gearshift.evaluate.examples import Example
from gearshift.evaluate.metrics import to_tensor
from gearshift.evaluate.timing import call_seconds, now
from gearshift.models.describe import describe
from gearshift.models.example import silent
from gearshift.models.image_to_image import taking
from gearshift.models.texts import as_tokens, positions
from gearshift.runtimes.speech.audio import RATE, as_samples

MOST_TOKENS = 1024  # of a text that are read
PROMPT, NEW = 32, 32  # tokens of the prompt that is continued, and of its continuation
TRUTH = "truth"  # the key of what is for metrics alone


@dataclass
class Answer:
    """What a model made of one example; what its kind has none of is None.

    Attributes:
        seconds: of the call: a pipeline's images, a text's continuation, a recording's transcript.
        images: of a pipeline, float32 [n, 3, height, width] in [0, 1].
        latents: the final ones of a pipeline, or the output of another module, float32, the batch first.
        tokens, logits: of a text that was read: int64 [tokens], float32 [tokens, vocabulary].
        text: of a recording.
        new_tokens, first_token: tokens that were generated, and seconds until the first of them.
        sound: seconds of a recording.
        output: whatever of these is the model's answer, as a user's own metric is given it.
    """

    seconds: float
    images: Tensor | None = None
    latents: Tensor | None = None
    tokens: Tensor | None = None
    logits: Tensor | None = None
    text: str | None = None
    new_tokens: int = 0
    first_token: float | None = None
    sound: float = 0.0
    output: Any = None


@dataclass
class Subject:
    """A model that is measured.

    Attributes:
        within: makes the block in which it is called, e.g. `disabled(model)` for the original of a model.
        tokenizer, processor: read its texts and sound.
        given: arguments of its calls beside those of the examples.
        judged, timed: whether its answers are looked at, and whether it is timed.
    """

    model: Any
    within: Callable[[], AbstractContextManager[Any]] = nullcontext
    tokenizer: Any = None
    processor: Any = None
    given: Mapping[str, Any] = field(default_factory=dict)
    judged: bool = True
    timed: bool = True
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        self.kind = describe(self.model).kind

    def answer(self, example: Example) -> Answer:
        """Call the model with an example.

        Raises:
            BadRecipe: if it does not take it.
        """
        ask = {Kind.DIFFUSION: _drawn, Kind.LANGUAGE: _written, Kind.SPEECH: _heard}.get(self.kind, _computed)
        with (
            self.within(),
            torch.random.fork_rng(),
            torch.no_grad(),
            calling(self.model, f"example {example.names[0]!r}"),
        ):
            if "" in parts(self.model):
                with evaluating(self.model):
                    return ask(self, example)
            return ask(self, example)

    def seconds(self, example: Example) -> float:
        """Seconds of nothing but the call."""
        judged, self.judged = self.judged, False
        try:
            return self.answer(example).seconds
        finally:
            self.judged = judged


def _arguments(subject: Subject, example: Example) -> dict[str, Any]:
    return {**{k: v for k, v in example.call.items() if k != TRUTH}, **subject.given}


def _drawn(subject: Subject, example: Example) -> Answer:
    """Images of a pipeline: each with a generator of its own seed."""
    call = _arguments(subject, example)
    pipe = taking(subject.model, call)
    known = inspect.signature(type(pipe).__call__).parameters
    seeds = [torch.Generator().manual_seed(seed) for seed in example.seeds]
    call.setdefault("generator", seeds if len(seeds) > 1 else seeds[0])
    if isinstance(call["generator"], torch.Generator) and "generator" in example.call:
        call["generator"] = call["generator"].clone_state()
    if "output_type" in known:
        call.setdefault("output_type", "np")
    seen: dict[str, Tensor] = {}
    if subject.judged and "callback_on_step_end" in known and "callback_on_step_end" not in call:
        call["callback_on_step_end"] = lambda pipe, step, t, given: seen.update(given) or given
    made: list[Any] = []
    with silent(pipe):
        seconds = call_seconds(lambda: made.append(pipe(**call)))
    latents = seen.get("latents")
    images = _as_images(made[0])
    return Answer(seconds, images, None if latents is None else latents.float(), output=images)


def _as_images(output: Any) -> Tensor | None:
    """What a pipeline gave as [n, 3, height, width]; the frames of videos count as images. None for latents."""
    found = next((getattr(output, k) for k in ("images", "frames") if hasattr(output, k)), None)
    found = output[0] if found is None else found
    if isinstance(found, list) and found and hasattr(found[0], "convert"):
        return to_tensor(found)
    if isinstance(found, Tensor):
        array = found.float().cpu()
        return array.flatten(0, -4).clamp(0, 1) if array.ndim >= 4 and array.shape[-3] == 3 else None
    array = torch.from_numpy(np.asarray(found)).float()
    if array.ndim < 4 or array.shape[-1] != 3:
        return None
    return array.flatten(0, -4).permute(0, 3, 1, 2).nan_to_num(0.0).clamp(0, 1)


def _written(subject: Subject, example: Example) -> Answer:
    """A text: read as a whole for its tokens' probabilities, and its beginning continued for the time."""
    model = subject.model
    tokens = _tokens(subject, example)
    answer = Answer(0.0, tokens=tokens[0].cpu())
    several = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if subject.judged and not several and len(tokens[0]) > 1:
        logits = model(input_ids=tokens).logits if hasattr(model, "forward") else model.logits(tokens)
        answer.logits = logits[0].float().cpu()
    if subject.timed:
        prompt = tokens if several else tokens[:, : max(1, min(PROMPT, tokens.shape[1] // 2))]
        new = int(example.call.get("max_new_tokens", NEW))
        made: list[Any] = []
        answer.seconds = call_seconds(lambda: made.append(_continued(model, prompt, new)))
        answer.first_token = call_seconds(lambda: _continued(model, prompt, 1)) if new > 1 else answer.seconds
        answer.output, answer.new_tokens = made[0], new
    return answer


def _continued(model: Any, prompt: Tensor, count: int) -> Any:
    """Exactly so many greedy tokens after a prompt."""
    given = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
    return model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **given)


def _tokens(subject: Subject, example: Example) -> Tensor:
    """The tokens of a text, int64 [1, tokens], no more than the model has positions for."""
    model = subject.model
    found = example.call.get("input_ids", example.call.get("text"))
    if isinstance(found, str):
        tokenizer = subject.tokenizer or getattr(model, "tokenizer", None)
        if tokenizer is None:
            raise BadValue("`data` holds texts, and the model reads tokens: give a `tokenizer`.")
        found = tokenizer(found, verbose=False)["input_ids"]
    tokens = as_tokens(list(found) if isinstance(found, (list, tuple)) else found)
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.shape[0] != 1 or tokens.shape[1] == 0:
        raise BadValue("An example of a language model is a text or the token ids of one text.")
    device = next((p.device for part in parts(model).values() for p in part.parameters()), "cpu")
    return tokens[:, : min(MOST_TOKENS, positions(model) or MOST_TOKENS)].to(device)


def _heard(subject: Subject, example: Example) -> Answer:
    """A recording's transcript."""
    model, samples = subject.model, as_samples(example.call["audio"])
    processor = subject.processor or getattr(model, "processor", None)
    if processor is None:
        raise BadValue("A speech model is measured with its `processor`.")
    known = {k: v for k, v in example.call.items() if k in ("language", "task")}
    texts: list[str] = []
    hear = _transcript if hasattr(model, "generate") else _recording
    seconds = call_seconds(lambda: texts.append(hear(model, processor, samples, known)))
    return Answer(seconds, text=texts[0], sound=len(samples) / RATE, output=texts[0])


def _transcript(model: Any, processor: Any, samples: np.ndarray, given: Mapping[str, Any]) -> str:
    """Of transformers' Whisper, or of one that is called in the same way; long recordings window after window."""
    frames = processor.feature_extractor.n_samples
    long = {"truncation": False, "padding": "longest", "return_attention_mask": True} if len(samples) > frames else {}
    features = processor(samples, sampling_rate=RATE, return_tensors="pt", **long)
    weight = next((p for part in parts(model).values() for p in part.parameters()), None)
    placed = {k: v if weight is None else v.to(weight.device) for k, v in features.items()}
    if weight is not None:
        placed["input_features"] = placed["input_features"].to(weight.dtype)
    tokens = model.generate(**placed, **given, **({"return_timestamps": True} if long else {}))
    return str(processor.batch_decode(tokens, skip_special_tokens=True)[0])


def _recording(model: Any, processor: Any, samples: np.ndarray, given: Mapping[str, Any]) -> str:
    return str(model(samples, **given)["text"])


def _computed(subject: Subject, example: Example) -> Answer:
    """The output of any other module: its first tensor."""
    call, made = _arguments(subject, example), list[Any]()
    args = [call.pop("input")] if "input" in call else []
    seconds = call_seconds(lambda: made.append(subject.model(*args, **call)))
    output = made[0]
    held = next((v for v in output.values() if isinstance(v, Tensor)), None) if isinstance(output, Mapping) else output
    held = held[0] if isinstance(held, (tuple, list)) and held else held
    return Answer(seconds, latents=held.float() if isinstance(held, Tensor) else None, output=output)


def component_seconds(subject: Subject, example: Example) -> dict[str, float]:
    """Seconds that one call of a pipeline spends in each of its components, by name; all else under 'rest'.

    A VAE is timed where its encoder and decoder are called, as pipelines call these and not the module itself.
    """
    spent: dict[str, float] = {}
    since: dict[int, float] = {}
    handles = []

    def enter(module: Any, _: Any) -> None:
        since[id(module)] = now()

    for name, part in parts(subject.model).items():
        inner = [m for k in ("encoder", "decoder") if isinstance(m := getattr(part, k, None), torch.nn.Module)]

        def leave(module: Any, _: Any, __: Any, name: str = name) -> None:
            spent[name] = spent.get(name, 0.0) + now() - since.pop(id(module), now())

        for module in inner if hasattr(part, "decode") and inner else [part]:
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        whole = subject.seconds(example)
    finally:
        for handle in handles:
            handle.remove()
    return {**spent, "rest": max(whole - sum(spent.values()), 0.0)}
