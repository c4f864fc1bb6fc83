"""Language models that other programs quantized: packed here bit by bit, and read."""

import json

import pytest
import torch
from safetensors.torch import save_file
from support.tiny import build
from support.words import packed
from torch import nn

import gearshift as gs
from gearshift import read_checkpoint
from gearshift.core.errors import BrokenFolder
from gearshift.models.packed import unpack_words

GROUP = 16


def parts_of(weight, bits, symmetric=False):
    """Codes [out, in], scale and whole zero [out, groups], and the weight that they stand for."""
    groups = weight.unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / (2**bits - 1)).half()
    zero = (-low / scale.float()).round().clamp(0, 2**bits - 1)
    if symmetric:
        scale, zero = (groups.abs().amax(-1) / (2 ** (bits - 1) - 1)).half(), torch.full_like(low, 2 ** (bits - 1))
    codes = (groups / scale.float()[..., None] + zero[..., None]).round().clamp(0, 2**bits - 1)
    stands_for = (codes - zero[..., None]) * scale.float()[..., None]
    return codes.flatten(1).long(), scale, zero.long(), stands_for.flatten(1)


def in_gptq(weight, bits, version, symmetric=False):
    codes, scale, zero, stands_for = parts_of(weight, bits, symmetric)
    stored = (zero - int(version == 1)) % 2**bits
    order = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
    parts = {"qweight": packed(codes, bits).T, "qzeros": packed(stored.T, bits), "scales": scale.T, "g_idx": order}
    return parts, stands_for


def in_compressed_tensors(weight, bits, symmetric):
    codes, scale, zero, stands_for = parts_of(weight, bits, symmetric)
    parts = {"weight_packed": packed(codes, bits), "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}
    if not symmetric:
        parts["weight_zero_point"] = packed(zero.T, bits).T
    return parts, stands_for


def written(folder, pack, told):
    """A folder of a tiny Llama, and the float model that it stands for."""
    model = build("llama").pipe
    model.save_pretrained(folder)
    state = model.state_dict()
    for path, layer in model.named_modules():
        if type(layer) is nn.Linear and "lm_head" not in path:
            parts, stands_for = pack(state.pop(f"{path}.weight"))
            layer.weight.data = stands_for
            state |= {f"{path}.{name}": tensor.contiguous() for name, tensor in parts.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": told}))
    return model


GPTQ = {"quant_method": "gptq", "group_size": GROUP}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
CASES = {
    **{f"gptq-{bits}": (lambda w, b=bits: in_gptq(w, b, 1), {**GPTQ, "bits": bits}) for bits in (2, 3, 4, 8)},
    "gptq-v2": (lambda w: in_gptq(w, 4, 2), {**GPTQ, "bits": 4, "checkpoint_format": "gptq_v2"}),
    "gptq-v2-unnamed": (lambda w: in_gptq(w, 4, 2), {**GPTQ, "bits": 4}),
    "gptq-v2-named-1": (lambda w: in_gptq(w, 3, 2), {**GPTQ, "bits": 3, "checkpoint_format": "gptq"}),
    "gptq-v1-named-2": (lambda w: in_gptq(w, 2, 1), {**GPTQ, "bits": 2, "checkpoint_format": "gptq_v2"}),
    "gptq-v2-symmetric": (lambda w: in_gptq(w, 8, 2, True), {**GPTQ, "bits": 8, "checkpoint_format": "gptq"}),
    "gptq-v1-symmetric": (lambda w: in_gptq(w, 8, 1, True), {**GPTQ, "bits": 8, "checkpoint_format": "gptq_v2"}),
    "compressed-symmetric": (lambda w: in_compressed_tensors(w, 4, True), PACKED),
    "compressed-with-zeros": (lambda w: in_compressed_tensors(w, 4, False), PACKED),
    "compressed-8": (lambda w: in_compressed_tensors(w, 8, True), PACKED),
}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_words_hold_numbers_end_to_end(bits):
    numbers = torch.randint(0, 2**bits, (3, 64))
    assert torch.equal(unpack_words(packed(numbers, bits), bits).long(), numbers)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_is_read_exactly_and_saved_as_ours(case, tmp_path):
    model = written(tmp_path, *CASES[case])
    read = read_checkpoint(tmp_path)
    for path, layer in model.named_modules():
        if type(layer) is nn.Linear:
            assert torch.allclose(read.get_submodule(path).weight * 1, layer.weight, rtol=1e-5, atol=1e-7)
    tokens = torch.arange(3, 90)[None]  # more rows than the kernels that round activations take
    with torch.no_grad():
        wanted, got = model(input_ids=tokens).logits, read(input_ids=tokens).logits
        assert torch.allclose(got, wanted, atol=1e-3)
        gs.save(read, tmp_path / "ours")
        assert torch.equal(gs.load(tmp_path / "ours")(input_ids=tokens).logits, got)
    assert gs.status(read).applied[0]["notes"]


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(BrokenFolder, match="of a transformers model"):
        read_checkpoint(tmp_path)
    pack, told = CASES["gptq-4"]
    for place, other in (("other", {"quant_method": "eetq"}), ("plain", {})):
        written(tmp_path / place, pack, other)
        with pytest.raises(BrokenFolder, match=r"format ('eetq'|float)"):
            read_checkpoint(tmp_path / place)

    def shuffled(weight):
        parts, stands_for = pack(weight)
        return {**parts, "g_idx": parts["g_idx"].flip(0)}, stands_for

    written(tmp_path / "order", shuffled, told)
    with pytest.raises(BrokenFolder, match="order of its activations"):
        read_checkpoint(tmp_path / "order")


def test_what_the_layers_show_goes_before_what_the_configuration_names(tmp_path):
    for case, words in (("gptq-v2-unnamed", "second version, though it names the first"), ("gptq-4", "")):
        written(tmp_path / case, *CASES[case])
        notes = " ".join(gs.status(read_checkpoint(tmp_path / case)).applied[0]["notes"])
        assert words in notes and ("version" in notes) == bool(words)


def spoilt(**changes):
    def pack(weight):
        parts, stands_for = in_gptq(weight, 4, 1)
        changed = {name: change(parts[name]) for name, change in changes.items()}
        return {name: t for name, t in {**parts, **changed}.items() if t is not None}, stands_for

    return pack


@pytest.mark.parametrize(
    ("pack", "told", "words"),
    [
        (spoilt(qweight=lambda t: t[:-1]), {}, r"qweight has the shape \(7, 32\), and its layer needs \(8, 32\)"),
        (spoilt(qweight=lambda t: t.float()), {}, r"qweight is of type torch\.float32, not torch\.int32"),
        (spoilt(qzeros=lambda t: None), {}, "qzeros is missing"),
        (spoilt(scales=lambda t: t.unsqueeze(-1)), {}, "scales has the shape"),
        (spoilt(scales=lambda t: t * torch.inf), {}, "scales has values that are not finite"),
        (spoilt(scales=lambda t: t.long()), {}, "not floating point"),
        (spoilt(g_idx=lambda t: t[:-1]), {}, "g_idx has the shape"),
        (spoilt(), {"group_size": 32}, "qzeros has the shape"),
        (spoilt(), {"group_size": 0}, "group_size must be 1 or more"),
        (spoilt(), {"group_size": "16"}, "group_size must be an int"),
        (spoilt(), {"bits": 5}, r"quantization_config\.bits must be one of 2, 3, 4, 8, not 5"),
        (spoilt(), {"bits": "4"}, "bits must be one of"),
        (spoilt(), {"bits": 8}, "has the shape"),
    ],
)
def test_tensors_that_do_not_fit_are_named(pack, told, words, tmp_path):
    written(tmp_path, pack, {**GPTQ, "bits": 4, **told})
    with pytest.raises(BrokenFolder, match=words) as caught:
        read_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 10**7}, "far more modules than"),
        ({"hidden_size": 10**9}, "cannot be read as a transformers model"),
        ({"hidden_size": -1}, "cannot be read as a transformers model"),
        ({"vocab_size": "x"}, "cannot be read as a transformers model"),
        ({"model_type": "nope"}, "nope"),
        ({"quantization_config": "x"}, "must be a dict, not 'x'"),
        ({"quantization_config": None}, "format float"),
        ({"auto_map": {"AutoConfig": "evil.C"}, "model_type": "evil"}, "code of its own is not run"),
    ],
    ids=str,
)
def test_configurations_that_cannot_be_are_refused_at_once(change, words, tmp_path):
    written(tmp_path, *CASES["gptq-4"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BrokenFolder, match=words) as caught:
        read_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
