"""What a language model is trained on: windows of text, the user's or the model's own, and what came next in them.

What came next is the text's own token, or, better where the original is at hand, all of its probabilities (knowledge
distillation, Hinton et al. 2015, arXiv 1503.02531).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gearshift.core.errors import BadRecipe, quoted
from gearshift.core.model import evaluating
from gearshift.core.progress import Progress, progress, track
from gearshift.models.texts import positions, texts

WINDOW = 256
OWN_WINDOWS = 32
HELD_OUT = 0.1
LIKELY = 64  # tokens of each place whose probabilities are kept


class NextToken(nn.Module):
    """Mean cross-entropy of the next token over a batch of windows [batch, tokens] int64, in nats."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens.to(next(self.model.parameters()).device)
        logits = self.model(input_ids=tokens, use_cache=False).logits[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


@dataclass(frozen=True)
class Answers:
    """What the original said would come next in a batch of windows.

    Attributes:
        tokens: [batch, tokens] int64.
        likely: the likeliest next tokens of each place but the last [batch, tokens - 1, k] int64.
        logs: the logarithms of their probabilities, float32.
    """

    tokens: torch.Tensor
    likely: torch.Tensor
    logs: torch.Tensor


class SameAnswers(nn.Module):
    """Mean Kullback-Leibler divergence from a batch's `Answers`, in nats; all unlikely tokens count as one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, answers: Answers) -> torch.Tensor:
        device = next(self.model.parameters()).device
        logs = answers.logs.to(device)
        ours = next_logs(self.model, answers.tokens.to(device)).gather(-1, answers.likely.to(device))
        rest, our_rest = ((1 - x.exp().sum(-1)).clamp_min(1e-6) for x in (logs, ours))
        return ((logs.exp() * (logs - ours)).sum(-1) + rest * (rest / our_rest).log()).mean()


def next_logs(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logarithms of the probabilities of the next token [batch, tokens - 1, vocabulary], float32."""
    return model(input_ids=tokens, use_cache=False).logits[:, :-1].float().log_softmax(-1)


@torch.no_grad()
def answers(model: Any, batches: Iterable[torch.Tensor]) -> list[Answers]:
    """What a model says to batches of windows, kept on the CPU."""
    device, found = next(model.parameters()).device, []
    for tokens in track(batches, "recording what the original answers"):
        logs = next_logs(model, tokens.to(device))
        top = logs.topk(min(LIKELY, logs.shape[-1]))
        found.append(Answers(tokens, top.indices.cpu(), top.values.cpu()))
    return found


def window_of(model: Any) -> int:
    """Tokens of a window: 256, or what the model's positions allow."""
    return min(WINDOW, positions(model) or WINDOW)


def windows(data: Iterable[Any], tokenizer: Any, length: int) -> torch.Tensor:
    """All of some text as windows [n, length] of int64 tokens, end to end; what is left over at the end is dropped.

    Args:
        data: strings, which the tokenizer reads, token tensors, or dicts with `input_ids`.

    Raises:
        BadRecipe: if there are strings but no tokenizer, an item is something else, or all is too short for one window.
    """
    found = [_tokens(item, tokenizer) for item in texts(data)]
    joined = torch.cat(found) if found else torch.empty(0, dtype=torch.long)
    count = len(joined) // length
    if not count:
        raise BadRecipe([f"The data holds {len(joined)} tokens; {length} or more are needed for one window."])
    return joined[: count * length].view(count, length)


def _tokens(item: Any, tokenizer: Any) -> torch.Tensor:
    if isinstance(item, str):
        if tokenizer is None:
            raise BadRecipe(["The data holds strings, so it takes a `tokenizer` to read them."])
        item = tokenizer(item)["input_ids"]
    elif isinstance(item, Mapping) and "input_ids" in item:
        mask = item.get("attention_mask")
        item = item["input_ids"] if mask is None else item["input_ids"][mask.bool()]
    if not isinstance(item, (list, torch.Tensor)):
        raise BadRecipe([f"An item of data is a string, tokens, or a dict with input_ids. Got {quoted(item)}."])
    return torch.as_tensor(item, dtype=torch.long).flatten()


@torch.no_grad()
def own_text(model: Any, length: int, seed: int, count: int = OWN_WINDOWS) -> torch.Tensor:
    """Windows [count, length] that the model samples from itself, each from another first token."""
    with torch.random.fork_rng(), evaluating(model), progress("writing text to learn from", length) as bar:
        torch.manual_seed(seed)
        size = model.get_input_embeddings().num_embeddings
        device = next(model.parameters()).device
        first = torch.randint(0, size, (count, 1), device=device)
        mask = torch.ones_like(first)
        sizes = {"max_length": length, "min_length": length, "pad_token_id": 0}
        made = model.generate(first, attention_mask=mask, do_sample=True, stopping_criteria=_never(bar), **sizes)
    return made[:, :length].cpu()


def _never(bar: Progress) -> Any:
    """A criterion of transformers' that stops nothing, and tells how many tokens there are."""
    from transformers import StoppingCriteriaList

    def stop(tokens: torch.Tensor, _: Any, **more: Any) -> torch.Tensor:
        bar.update(tokens.shape[1])
        return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)

    return StoppingCriteriaList([stop])


def split(examples: list[Any], share: float = HELD_OUT) -> tuple[list[Any], list[Any]]:
    """Examples to train on and, evenly from all of them, those to validate on; none of these from fewer than four."""
    if len(examples) < 4:
        return examples, []
    every = max(2, round(1 / share)) if len(examples) >= round(1 / share) else len(examples)
    held = [e for i, e in enumerate(examples) if i % every == every - 1]
    return [e for i, e in enumerate(examples) if i % every != every - 1], held
