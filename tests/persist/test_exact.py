"""What is loaded is what was saved: the type and bits of every tensor, and every tensor there."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.hashes import short_hash
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BrokenFolder, GearshiftError
from gearshift.core.model import parts
from gearshift.persist.manifest import sha256

HALF = torch.float16


def all_tensors(model):
    """Hashes of parameters and buffers, those outside of the state dict too."""
    named = ((p, n, t) for p, m in parts(model).items() for n, t in (*m.named_parameters(), *m.named_buffers()))
    return {f"{part}.{name}": short_hash(tensor) for part, name, tensor in named}


def every_third(model):
    for part in parts(model).values():
        for parameter in list(part.parameters())[::3]:
            parameter.data = parameter.data.to(HALF)


def odd_values(model):
    for part in parts(model).values():
        first = next(part.parameters())
        first.data.view(-1)[:2] = torch.tensor([float("nan"), float("inf")])


def eight_bits(model):
    for part in parts(model).values():
        for name, parameter in part.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.data = parameter.data.to(torch.float8_e4m3fn)


EDITS = {
    "as it is": lambda model: None,
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "mixed": every_third,
    "8-bit floats": eight_bits,
    "not finite": odd_values,
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "marian", "whisper", "wan", "dit"])
def test_every_tensor_comes_back_bit_for_bit(name, edit, tmp_path):
    model = build(name).pipe
    EDITS[edit](model)
    gs.save(model, tmp_path / "x")
    assert all_tensors(gs.load(tmp_path / "x")) == all_tensors(model)


def test_tensors_lie_in_memory_as_they_did(tmp_path):
    tiny = build("sd")
    tiny.pipe.unet.to(memory_format=torch.channels_last)
    gs.optimize(tiny.pipe, "taylor")
    gs.save(tiny.pipe, tmp_path / "x")
    again = gs.load(tmp_path / "x")
    filters = [p for p in again.unet.parameters() if p.ndim == 4]
    assert filters and all(p.is_contiguous(memory_format=torch.channels_last) for p in filters)
    assert torch.equal(tiny.run(steps=2, pipe=again), tiny.run(steps=2))


def test_layers_that_were_replaced_keep_their_buffers_too(tmp_path):
    model = gs.optimize(build("llama").pipe, "hqq")
    model.to(torch.bfloat16)  # rotary frequencies too, which are in no state dict
    gs.save(model, tmp_path / "x")
    assert all_tensors(gs.load(tmp_path / "x")) == all_tensors(model)


def spoiled(folder, change, name):
    """Change a file's tensors and its hash with it, as somebody would on purpose."""
    file = next(folder.rglob(name))
    state = load_file(file)
    change(state)
    save_file(state, file, metadata={"format": "pt"})
    manifest = json.loads((folder / "gearshift.json").read_text())
    manifest["files"][file.relative_to(folder).as_posix()] = sha256(file)
    (folder / "gearshift.json").write_text(json.dumps(manifest))


def drop(state):
    del state["model.norm.weight"]


def add(state):
    state["model.other.weight"] = torch.ones(2)


def reshape(state):
    state["model.norm.weight"] = torch.ones(2)


def empty(state):
    state["model.norm.weight"] = torch.full((32,), float("nan"))


SPOILS = {
    "missing": (drop, r"lacks model\.norm\.weight|tensors missing"),
    "one too many": (add, r"model\.other\.weight|too many"),
    "another shape": (reshape, r"model\.norm\.weight"),
    "not finite": (empty, r"values in model\.norm\.weight that are not finite"),
}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("recipe", [None, "hqq"])
def test_tensors_that_do_not_fit_are_one_sentence(recipe, spoil, tmp_path):
    model = build("llama").pipe
    gs.save(gs.optimize(model, recipe) if recipe else model, tmp_path / "x")
    change, words = SPOILS[spoil]
    spoiled(tmp_path / "x", change, "gearshift.safetensors" if recipe else "model.safetensors")
    with pytest.raises(BrokenFolder, match=words) as told:
        gs.load(tmp_path / "x")
    assert str(tmp_path / "x") in str(told.value)


def test_a_configuration_that_makes_another_model_is_refused_at_once(tmp_path):
    model = build("llama").pipe
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(32, 48, bias=False)
    with pytest.raises(GearshiftError, match=r"makes a model in which model\.layers\.0\.mlp\.up_proj\.weight is \(64"):
        gs.save(model, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_weights_that_are_offloaded_are_refused(tmp_path):
    model = build("llama").pipe
    model.model.norm.weight = torch.nn.Parameter(torch.empty(32, device="meta"))
    with pytest.raises(GearshiftError, match=r"model\.norm\.weight has no values here"):
        gs.save(model, tmp_path / "x")
