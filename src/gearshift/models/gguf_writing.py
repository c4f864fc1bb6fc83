"""Writing GGUF files, llama.cpp's format: a model's sizes, its tokenizer and its tensors, by the `gguf` package."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gearshift.core.boundary import Misfit
from gearshift.core.errors import quoted
from gearshift.core.extras import need
from gearshift.models.gguf_blocks import to_blocks
from gearshift.quant.formats.grouped import Grouped

FILE = "model.gguf"
INTERLEAVED = {"llama"}  # kinds of models whose rotated heads llama.cpp has with their halves in turns
KINDS = ("llama", "qwen2", "qwen3")  # of models, which llama.cpp calls by the same names
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPLITS: dict[str, list[Any]] = {  # how texts are cut before their bytes are joined, by llama.cpp's name for it
    "gpt-2": ["ByteLevel"],
    "smollm": ["Digits", "ByteLevel"],
    "llama-bpe": [rf"{ENDINGS}|{LETTERS}|\p{{N}}{{1,3}}|{REST}", "ByteLevel"],
    "qwen2": [rf"{ENDINGS}|{LETTERS}|\p{{N}}|{REST}", "ByteLevel"],
}
NORMAL, CONTROL, USER, UNUSED = 1, 3, 4, 5  # kinds of tokens


class FileTensor(NamedTuple):
    """A tensor of the file: its numbers, or bytes in a type of blocks."""

    data: np.ndarray
    kind: str | None = None


def gguf_writer(
    config: Any, layers: Mapping[str, Grouped], floats: Mapping[str, torch.Tensor], tokenizer: Any
) -> Callable[[Path], None]:
    """What writes a causal language model into a folder, after everything was checked.

    Args:
        layers: the weights in groups, by path.
        floats: all other tensors, by name.

    Raises:
        Misfit: for what the format cannot hold.
    """
    gguf = need("gguf", "gguf", "Writing a GGUF file")
    kind = config.model_type
    if kind not in KINDS:
        raise Misfit(f"its model_type is {quoted(kind)}, and of {', '.join(KINDS)} alone it is known how")
    sizes, words = _sizes(config), _words(tokenizer, config.vocab_size)
    arch = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    table = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tensors = {}
    for name, tensor in _tensors(config, layers, floats).items():
        called = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if called is None:
            raise Misfit(f"{name} has no name in the format")
        tensors[called] = tensor

    def write(folder: Path) -> None:
        writer = gguf.GGUFWriter(folder / FILE, kind)
        writer.add_name(getattr(config, "_name_or_path", "") or kind)
        for method, value in (sizes | words).items():
            getattr(writer, f"add_{method}")(value)
        for called, tensor in tensors.items():
            raw = None if tensor.kind is None else gguf.GGMLQuantizationType[tensor.kind]
            writer.add_tensor(called, tensor.data, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return write


def _sizes(config: Any) -> dict[str, Any]:
    """What the file says of the model, by the writer's names."""
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise Misfit(f"its positions are rotated in the way {quoted(rope['rope_type'])}, which is not written")
    return {
        "vocab_size": config.vocab_size,
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "head_count": heads,
        "head_count_kv": config.num_key_value_heads,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "rope_freq_base": rope["rope_theta"],
        "rope_dimension_count": head,
        "key_length": head,
        "value_length": head,
    }


def _tensors(config: Any, layers: Mapping[str, Grouped], floats: Mapping[str, torch.Tensor]) -> dict[str, FileTensor]:
    """All tensors by their names in transformers, in the file's order of rows."""
    found = {}
    for path, grouped in layers.items():
        try:
            kind, data = to_blocks(grouped)
        except Misfit as error:
            raise Misfit(f"{path}: {error}") from error
        found[f"{path}.weight"] = FileTensor(data, kind)
    seen: set[Any] = set()
    for name, tensor in floats.items():
        place = tensor.data_ptr(), tensor.shape
        if place in seen:  # a head with the embedding's weight
            continue
        seen.add(place)
        plain = tensor.cpu().float() if tensor.ndim == 1 else tensor.cpu()
        brain = plain.dtype == torch.bfloat16
        data = plain.contiguous().view(torch.int16).numpy().view(np.uint8) if brain else plain.contiguous().numpy()
        found[name] = FileTensor(data, "BF16" if brain else None)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    if config.model_type in INTERLEAVED:
        for name, held in found.items():
            count = heads.get(name.split(".")[-2])
            if count is not None:
                found[name] = held._replace(data=_in_turns(held.data, count))
    return found


def _in_turns(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * n, ...] with the two halves of each head in turns."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _words(tokenizer: Any, size: int) -> dict[str, Any]:
    """What the file says of the tokenizer, by the writer's names.

    Raises:
        Misfit: unless it joins bytes to pairs, after a cut that llama.cpp has as well.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise Misfit("no tokenizer is at hand that could be written into the file; give one with tokenizer=")
    told = json.loads(backend.to_str())
    model, cut = told["model"], _cut(told["pre_tokenizer"])
    known = next((name for name, steps in SPLITS.items() if steps == cut), None)
    normal = told["normalizer"] is None or told["normalizer"].get("type") == "NFC"
    if model["type"] != "BPE" or model.get("byte_fallback") or known is None or not normal:
        raise Misfit("its tokenizer cuts texts in a way that is not known how to write")
    tokens, kinds = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    entries = [(number, token, NORMAL) for token, number in model["vocab"].items()]
    entries += [(t["id"], t["content"], CONTROL if t["special"] else USER) for t in told["added_tokens"]]
    for number, token, kind in entries:
        if number >= size:
            raise Misfit(f"its tokenizer has a token {number}, and the model {size} of them")
        tokens[number], kinds[number] = token, kind
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    named = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    first = tokenizer("a").input_ids[:1]
    return {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": known,
        "token_list": tokens,
        "token_types": kinds,
        "token_merges": merges,
        "add_bos_token": first == [named["bos"]],
        **{f"{name}_token_id": number for name, number in named.items() if number is not None},
        **({"chat_template": tokenizer.chat_template} if isinstance(tokenizer.chat_template, str) else {}),
    }


def _cut(step: Any) -> list[Any]:
    """The steps of a tokenizer's cut: names of those with their usual settings, patterns, else what they are."""
    if step is None:
        return []
    kind = step["type"]
    if kind == "Sequence":
        return [part for inner in step["pretokenizers"] for part in _cut(inner)]
    if kind == "Digits" and step["individual_digits"]:
        return [kind]
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return [step["pattern"].get("Regex")]
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return [kind]
    return [step]
