"""From a transformers model in memory to a CTranslate2 model on disk.

CTranslate2's converter reads a folder or the hub; its loaders, one for each configuration class, take a model. Words
of the vocabulary are the token ids themselves, so that any vocabulary fits, with or without a tokenizer.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gearshift.core.errors import GearshiftError, told
from gearshift.core.extras import need
from gearshift.core.model import parts
from gearshift.core.record import ATTRIBUTE
from gearshift.core.target import put
from gearshift.kernels.cpu.onednn import saturates
from gearshift.quant.formats.int8 import quantize_weight
from gearshift.runtimes.fields import is_plain, unread, watch_fields

EXTRA = "ctranslate2"
NOTHING = "<none>"  # stands for special tokens: no model predicts it, so that they are for each call to say
CAUSAL = ("ForCausalLM", "LMHeadModel")
SEQUENCES = ("ForConditionalGeneration", "MTModel")
SPEECH = ("WhisperForConditionalGeneration",)


class Words:
    """What the loaders ask of a tokenizer, answered with token ids as words, but for those that have names."""

    bos_token = eos_token = unk_token = pad_token = NOTHING
    unk_token_id = -1
    chat_template = ""

    def __init__(self, count: int, names: dict[int, str]) -> None:
        self.words = [names.get(i, str(i)) for i in range(count)]

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.words[token]


def engine() -> Any:
    """The package.

    Raises:
        MissingExtra: if it is not installed.
    """
    need("ctranslate2.converters.transformers", EXTRA, "A model that CTranslate2 runs")
    return need("ctranslate2", EXTRA, "A model that CTranslate2 runs")


def opened_model(maker: Any, folder: Path, device: torch.device, **settings: Any) -> Any:
    """A CTranslate2 model of a folder, made by its class.

    To load one sets how many OpenMP threads the caller's thread uses, which are torch's too; they are set back.
    """
    threads = torch.get_num_threads()
    try:
        return maker(str(folder), device=device.type, device_index=device.index or 0, **settings)
    finally:
        torch.set_num_threads(threads)


def architectures(endings: tuple[str, ...]) -> list[str]:
    """Names of the model classes that CTranslate2 takes, of those whose name ends so."""
    found = {_class_name(config, loader) for config, loader in _loaders().items()}
    return sorted(name for name in found if name.endswith(endings) and (endings == SPEECH or name not in SPEECH))


def convert(model: Any, folder: Path, weight_bits: int, names: dict[int, str]) -> None:
    """Write model.bin, config.json and the vocabulary into a folder; the model is left as it is.

    Args:
        weight_bits: 8: int8 with a scale for each output channel; 16: float16.
        names: token ids whose words the engine looks up.

    Raises:
        GearshiftError: if CTranslate2 cannot convert the model.
    """
    package = engine()
    twin = _taken_apart(model)
    words = Words(twin.get_input_embeddings().weight.shape[0], names)
    try:
        loader, config = _loader(twin), twin.config
        read = watch_fields(twin)
        with _quick_collections():
            spec = loader.get_model_spec(twin)
        loader.set_config(spec.config, twin, words)
        if ignored := unread(model.config, read):
            raise ValueError(f"its converter does not look at {', '.join(ignored)}")
        _turn_by(spec, getattr(config, "rope_theta", None))
        loader.set_vocabulary(spec, words.words)
        _say_nothing_of_special_tokens(spec.config)
        spec.config.add_attribute("weight_bits", weight_bits)
        spec.config.add_attribute("pair_safe", saturates())
        if weight_bits == 8:
            _round(spec)
        spec.validate()
        spec.optimize(quantization="float16" if weight_bits == 16 else None)
        spec.save(str(folder))
    except Exception as error:
        raise GearshiftError(
            f"CTranslate2 {package.__version__} cannot convert this {type(model).__name__}: {told(error)}"
        ) from error


def has_adapters(model: Any) -> bool:
    """Whether peft layers stand in the model."""
    return any(_is_adapter(module) for module in model.modules())


def _round(spec: Any) -> None:
    """Round matrices to int8, with a scale for each output channel.

    CTranslate2 would use all of -127 to 127 and, on a CPU whose int8 products overflow 16 bits, lose most of its
    accuracy; here neighbors are kept from that.
    """
    from ctranslate2.specs.model_spec import index_spec

    for name, value in spec.variables().items():
        scope, _, key = name.rpartition("/")
        owner = index_spec(spec, scope)
        if isinstance(value, torch.Tensor) and hasattr(owner, f"{key}_scale"):
            rounded = quantize_weight(value, pair_safe=saturates())
            setattr(owner, key, rounded.values.numpy())
            setattr(owner, f"{key}_scale", rounded.scale.reciprocal().numpy())


def _turn_by(spec: Any, base: float | None) -> None:
    """Set the base of rotary embeddings, also where the loader has not asked for it."""
    from ctranslate2.specs.model_spec import index_spec

    for name in spec.variables() if base is not None else ():
        scope, _, key = name.rpartition("/")
        if key == "rotary_base":
            index_spec(spec, scope).rotary_base = np.float32(base)


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Some loaders collect garbage after each layer: they need not look at all that was there before, each time."""
    if gc.get_freeze_count():  # somebody else's
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _say_nothing_of_special_tokens(config: Any) -> None:
    for name in ("bos_token", "eos_token", "unk_token"):
        if hasattr(config, name):
            setattr(config, name, NOTHING)
    if hasattr(config, "decoder_start_token"):
        config.decoder_start_token = None


def _taken_apart(model: Any) -> Any:
    """A copy for the loaders to take modules out of, adapters merged; on the CPU it shares its tensors."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().cpu(), requires_grad=False) for p in model.parameters()}
    memo |= {id(b): b.detach().cpu() for b in model.buffers()}
    for part in parts(model).values():
        if ATTRIBUTE in vars(part):
            memo[id(vars(part)[ATTRIBUTE])] = None
    twin = copy.deepcopy(model, memo)
    for path, module in list(twin.named_modules()):
        if _is_adapter(module):
            layer = module.get_base_layer()
            for name, parameter in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, nn.Parameter(parameter.clone(), requires_grad=False))
            module.merge()
            put(twin, path, layer)
    _tell_what_older_configurations_said(twin)
    return twin


def _tell_what_older_configurations_said(model: Any) -> None:
    """Fill in what the loaders read from a configuration and transformers now says elsewhere, or nowhere."""
    config, kind = model.config, type(model.config).__name__
    rope = dict(getattr(config, "rope_parameters", None) or {})
    encoder = getattr(getattr(model, "model", None), "encoder", None)
    if kind in ("BartConfig", "MarianConfig", "MBartConfig", "PegasusConfig"):
        config.normalize_before = hasattr(encoder, "layer_norm")
        config.normalize_embedding = hasattr(encoder, "layernorm_embedding")
    if kind in ("T5Config", "MT5Config"):  # read as whether the decoder's output is scaled
        config.tie_word_embeddings = getattr(config, "scale_decoder_outputs", False)
    if kind == "GPTNeoXConfig":
        model.embed_out = model.get_output_embeddings()
    if "rope_type" in rope:
        config.rotary_pct = config.partial_rotary_factor = rope.get("partial_rotary_factor", 1.0)
        config.rope_theta = rope.get("rope_theta")
        config.rope_parameters = None if is_plain(rope) else {**rope, "type": rope["rope_type"]}


def _loader(model: Any) -> Any:
    """The loader of a model; Marian's would drop the vocabulary's last row, wherever the padding token is."""
    from ctranslate2.converters.transformers import BartLoader

    kind = type(model.config).__name__
    return BartLoader() if kind == "MarianConfig" else _loaders()[kind]


def _loaders() -> dict[str, Any]:
    engine()
    from ctranslate2.converters.transformers import _MODEL_LOADERS

    return _MODEL_LOADERS


def _class_name(config: str, loader: Any) -> str:
    name = str(loader.architecture_name)
    return config.removesuffix("Config") + "ForCausalLM" if name.startswith("Auto") else name


def _is_adapter(module: Any) -> bool:
    return hasattr(module, "get_base_layer") and hasattr(module, "merge")
