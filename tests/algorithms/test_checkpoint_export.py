"""Models written in other programs' formats, and read by these programs' own packages where they are installed."""

import functools
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file
from support.byte_tokens import TEXT, byte_tokenizer
from support.each import each
from support.tiny import build
from support.words import packed
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CompressedTensorsConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils import logging

import gearshift as gs
from gearshift.core.errors import BrokenFolder, GearshiftWarning, UnknownName, WrongModel
from gearshift.layers.base import QuantizedLinear
from gearshift.quant.formats.grouped import unpack

SIZES = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
}  # fmt: skip
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
WIDENED = CompressedTensorsConfig(dequantize=True)
TOKENS = torch.arange(100, 190)[None]  # more rows than the kernels that round activations take
logging.disable_progress_bar()


def tiny(kind="llama", tied=True, seed=0, **more):
    torch.manual_seed(seed)
    sizes = {**SIZES, **({"head_dim": 128} if kind == "qwen3" else {})}  # transformers' reader of GGUF knows no other
    config = CONFIGS[kind](**sizes, tie_word_embeddings=tied, **more)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@functools.cache
def quantized(recipe, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)  # of speed
        return gs.optimize(tiny(**more), recipe, exportable=True, tokenizer=byte_tokenizer(), data=TEXT)


def layers_of(model):
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}


def same_weights(model, read, places=layers_of):
    layers = places(model)
    assert len(layers) == 14
    for path, layer in layers.items():
        assert torch.equal(layer.weight * 1.0, read.get_submodule(path).weight * 1.0), path
    others = {n for n, _ in model.named_parameters() if n.rpartition(".")[0] not in layers}
    assert others and all(torch.equal(model.get_parameter(n), read.get_parameter(n)) for n in others)


def same_answers(model, read):
    with torch.no_grad():
        want, got = model(TOKENS).logits, read(TOKENS).logits
    assert (got - want).norm() < 1e-4 * want.norm()


@each("recipe", ["gptq(weight_bits=4)", "higgs", "torch_dynamic", "half"])
def test_floats_are_read_by_the_library_itself(recipe, tmp_path_factory):
    place = tmp_path_factory.mktemp("floats") / "out"
    model = quantized(recipe)
    gs.export(model, place, "safetensors")
    read = AutoModelForCausalLM.from_pretrained(place, dtype="auto")
    for name, wanted in model.state_dict().items():
        if name in read.state_dict():
            assert torch.equal(read.state_dict()[name], wanted * 1), name
    assert AutoTokenizer.from_pretrained(place)(TEXT[0]).input_ids == byte_tokenizer()(TEXT[0]).input_ids


def test_pipelines_are_written_component_by_component(tmp_path):
    pipe = gs.optimize(build("sd").pipe, "torch_dynamic")
    gs.export(pipe, tmp_path / "out", "safetensors")
    read = type(pipe.unet).from_pretrained(tmp_path / "out" / "unet")
    exact = {n: t * 1 for n, t in pipe.unet.state_dict().items() if n in read.state_dict()}
    assert exact.keys() == read.state_dict().keys()
    assert all(torch.equal(t, exact[n]) for n, t in read.state_dict().items())
    with pytest.raises(WrongModel, match="no model of transformers"):
        gs.export(pipe, tmp_path / "other", "gguf")


@each(
    "recipe, format",
    [
        ("gptq(weight_bits=4)", "gptq"),
        ("gptq(weight_bits=4)", "awq"),
        ("gptq(weight_bits=3)", "gptq"),
        ("gptq(weight_bits=3)", "compressed-tensors"),
        ("hqq(weight_bits=2)", "gptq"),
        ("hqq(weight_bits=8)", "gptq"),
        ("awq", "awq"),
        ("awq", "compressed-tensors"),
    ],
)
def test_codes_are_packed_as_they_are_and_read_again(recipe, format, tmp_path_factory):
    place = tmp_path_factory.mktemp("packed") / "out"
    model = quantized(recipe)
    gs.export(model, place, format)
    read = gs.read_checkpoint(place)
    same_weights(model, read)
    same_answers(model, read)
    state, layers = load_file(place / "model.safetensors"), layers_of(model)
    assert "lm_head.weight" not in state
    path, layer = next((p, m) for p, m in layers.items() if "down_proj" in p)
    codes = unpack(layer.codes, layer.bits, layer.in_features).long()
    if format == "gptq":
        assert torch.equal(packed(codes, layer.bits).T, state[f"{path}.qweight"])
    elif format == "awq":
        order = codes.T.unflatten(1, (-1, 8))[..., [0, 2, 4, 6, 1, 3, 5, 7]].flatten(1)
        assert torch.equal(packed(order, 4), state[f"{path}.qweight"])
    else:
        assert torch.equal(packed(codes, layer.bits), state[f"{path}.weight_packed"])


@each("recipe", ["gptq(weight_bits=4)", "hqq(weight_bits=8)", "torch_dynamic", "fp8"])
def test_compressed_tensors_reads_the_weights_bit_for_bit(recipe, tmp_path_factory):
    pytest.importorskip("compressed_tensors")
    place = tmp_path_factory.mktemp("compressed") / "out"
    model = quantized(recipe)
    gs.export(model, place, "compressed-tensors")
    zeros = "weight_bits=4" in recipe  # transformers reads those in this way alone, and no others so
    read = AutoModelForCausalLM.from_pretrained(place, **({"quantization_config": WIDENED} if zeros else {})).eval()
    with torch.no_grad():
        read(TOKENS)  # it unpacks the weights at the first call
    same_weights(model, read)


@each(
    "kind, recipe", [("llama", "hqq(weight_bits=4)"), ("qwen2", "hqq(weight_bits=8)"), ("qwen3", "hqq(weight_bits=2)")]
)
def test_gguf_is_read_by_its_package_and_by_transformers(kind, recipe, tmp_path_factory):
    gguf = pytest.importorskip("gguf")
    place = tmp_path_factory.mktemp("gguf") / "out"
    model = quantized(recipe, kind=kind, tied=kind == "llama")
    gs.export(model, place, "gguf")
    tensors = {t.name: t for t in gguf.GGUFReader(place / "model.gguf").tensors}
    held = tensors["blk.1.ffn_down.weight"]
    exact = torch.tensor(gguf.quants.dequantize(held.data, held.tensor_type))
    assert torch.equal(exact, model.model.layers[1].mlp.down_proj.weight * 1)
    read = AutoModelForCausalLM.from_pretrained(place, gguf_file="model.gguf", dtype=torch.float32).eval()
    same_weights(model, read)
    same_answers(model, read)
    same_weights(model, gs.read_checkpoint(place / "model.gguf"))
    words = AutoTokenizer.from_pretrained(place, gguf_file="model.gguf")
    assert words(TEXT[1]).input_ids == byte_tokenizer()(TEXT[1]).input_ids


def test_llama_cpp_goes_on_with_the_same_tokens(tmp_path):
    cpp = pytest.importorskip("xllamacpp")
    model, words = quantized("hqq(weight_bits=4)", tied=False), byte_tokenizer()
    gs.export(model, tmp_path / "out", "gguf")
    params = cpp.CommonParams()
    params.model.path, params.n_ctx, params.n_gpu_layers, params.warmup = (
        str(tmp_path / "out/model.gguf"),
        128,
        0,
        False,
    )
    plain = {"temperature": 0, "n_predict": 8, "logprobs": 1, "ignore_eos": True}
    (told,) = cpp.Server(params).handle_completions({"prompt": TEXT[1], **plain})["choices"]
    asked = torch.tensor([words(TEXT[1]).input_ids])
    for token in told["logprobs"]["content"]:
        with torch.no_grad():
            logits = model(asked).logits[0, -1].log_softmax(-1)
        logits[words.eos_token_id] = -torch.inf
        assert token["id"] == int(logits.argmax())
        assert abs(token["logprob"] - float(logits.max())) < 0.01
        asked = torch.cat([asked, torch.tensor([[token["id"]]])], 1)
    assert len(told["logprobs"]["content"]) == 8


REFUSED = [
    ("hqq(weight_bits=4)", "gptq", {}, r"layers\.0\.self_attn\.q_proj: the zeros of its groups are not whole numbers"),
    ("hqq(weight_bits=4)", "gguf", {}, r"q_proj: the zeros of its groups are neither whole numbers"),
    ("higgs", "compressed-tensors", {"exportable": True}, r"q_proj: it is a HiggsLinear"),
    ("hqq(weight_bits=8)", "awq", {"exportable": True}, r"q_proj: its weight has 8 bits, not 4"),
    ("hqq(group_size=8)", "gptq", {"exportable": True}, r"8 inputs share a scale, and the format has 16, 32"),
    ("hqq(group_size=16)", "gguf", {"exportable": True}, r"16 of its 64 inputs share a scale, not 32"),
    ("ipex_llm(weight_bits=8)", "gptq", {}, r"its scales are not exact in float16"),
    ("half", "gptq", {}, "none of its layers is quantized"),
]


@each("recipe, format, settings, words", REFUSED)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(
    recipe, format, settings, words, tmp_path_factory
):
    place = tmp_path_factory.mktemp("refused")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)
        model = gs.optimize(tiny(), recipe, tokenizer=byte_tokenizer(), **settings)
    with pytest.raises(WrongModel, match=words) as caught:
        gs.export(model, place / "deep" / "out", format)
    assert f"LlamaForCausalLM cannot be exported as {format}: " in str(caught.value) and "\n" not in str(caught.value)
    assert not list(place.iterdir())


def test_folders_formats_and_options_are_checked(tmp_path):
    model = quantized("hqq(weight_bits=4)")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "mine").write_text("mine")
    with pytest.raises(BrokenFolder, match="holds something"):
        gs.export(model, tmp_path / "held", "gptq")
    with pytest.raises(UnknownName, match="did you mean 'gptq'"):
        gs.export(model, tmp_path / "new", "gpqt")
    gs.export(model, tmp_path / "held", "gptq", overwrite=True)
    assert not (tmp_path / "held" / "mine").exists()
    told = json.loads((tmp_path / "held" / "config.json").read_text())["quantization_config"]
    assert (told["bits"], told["group_size"], told["desc_act"]) == (4, 64, False)
    with pytest.raises(WrongModel, match="no tokenizer is at hand"):
        gs.export(gs.optimize(tiny(), "hqq(weight_bits=4)", exportable=True), tmp_path / "new", "gguf")
    assert not (tmp_path / "new").exists()


def test_whole_zeros_cost_little_and_are_kept_by_a_saved_folder(tmp_path):
    exact, loose, model = tiny(), gs.optimize(tiny(), "hqq(weight_bits=4)"), quantized("hqq(weight_bits=4)")

    def error(other):
        pairs = [(layer.weight, other.get_submodule(path).weight * 1.0) for path, layer in layers_of(loose).items()]
        pairs = [
            (exact.get_submodule(path).weight, got) for path, (_, got) in zip(layers_of(loose), pairs, strict=True)
        ]
        return sum(float((a - b).square().sum()) for a, b in pairs)

    assert error(loose) < error(model) < 1.25 * error(loose)
    gs.save(model, tmp_path / "saved")
    again = gs.load(tmp_path / "saved")
    gs.export(again, tmp_path / "out", "gptq")
    same_weights(again, gs.read_checkpoint(tmp_path / "out"))
    assert all(torch.equal(m.zero, m.zero.round()) for m in layers_of(again).values())
