"""Broken folders are told in one sentence that names the file; nothing foreign is touched."""

import json
import shutil
import threading
import warnings

import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BadValue, BrokenFolder, GearshiftError, GearshiftWarning


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "model"
    gs.save(gs.optimize(build("dit").pipe, "qkv_diffusers, fora"), folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


WEIGHTS = "transformer/gearshift.safetensors"


def truncate(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def alter(folder):
    path = folder / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def edit(change):
    def spoil(folder):
        path = folder / "gearshift.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return spoil


SPOILS = {
    "truncated weights": (truncate, "gearshift.safetensors is damaged or was altered"),
    "altered weights": (alter, "gearshift.safetensors is damaged or was altered"),
    "missing weights": (lambda f: (f / WEIGHTS).unlink(), "gearshift.safetensors is missing"),
    "altered config": (lambda f: (f / "transformer/config.json").write_text("{}"), "config.json is damaged"),
    "no manifest": (lambda f: (f / "gearshift.json").unlink(), "not a folder saved by gearshift"),
    "broken manifest": (lambda f: (f / "gearshift.json").write_text("{"), "cannot be read as a manifest"),
    "list for manifest": (lambda f: (f / "gearshift.json").write_text("[]"), "cannot be read as a manifest"),
    "other format": (edit(lambda m: m.update(format=99)), "has format 99"),
    "foreign class": (edit(lambda m: m.update(model="os:system")), "names a class of 'os'"),
    "no model class": (edit(lambda m: m.update(model="diffusers:__version__")), "not a model class"),
    "unknown algorithm": (edit(lambda m: m["applied"][0].update(name="qkv")), "recipe that cannot be carried out"),
    "bad parameter": (edit(lambda m: m["applied"][1]["params"].update(interval=99)), "must be one of"),
    "path outside": (edit(lambda m: m["files"].update({"../../etc/passwd": "0"})), "outside of the folder"),
}


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoiled_folder_is_refused_in_a_sentence(copy, name):
    spoil, words = SPOILS[name]
    spoil(copy)
    with pytest.raises(BrokenFolder, match=words):
        gs.load(copy)


def test_without_verifying_a_truncated_file_still_is_refused(copy):
    truncate(copy)
    with pytest.raises(BrokenFolder, match=r"gearshift\.safetensors cannot be read as weights"):
        gs.load(copy, verify=False)


def test_a_folder_that_gearshift_did_not_write_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(BrokenFolder, match="was not saved by gearshift"):
        gs.save(build("dit").pipe, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_only_overwrite_replaces_what_gearshift_did_not_write(tmp_path):
    mine = tmp_path / "mine" / "folder" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("keep me")
    with pytest.raises(BadValue, match="overwrite must be True or False"):
        gs.save(build("dit").pipe, tmp_path / "mine", overwrite="yes")
    with pytest.raises(BrokenFolder, match="or overwrite it"):
        gs.save(build("dit").pipe, tmp_path / "mine")
    assert mine.read_text() == "keep me"
    gs.save(build("dit").pipe, tmp_path / "mine", overwrite=True)
    assert not mine.parent.exists() and [p.name for p in tmp_path.iterdir()] == ["mine"]
    gs.load(tmp_path / "mine")


def test_a_file_and_a_home_are_never_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "file").write_text("keep me")
    for place in (tmp_path, tmp_path / "home", tmp_path / "file"):
        with pytest.raises(BrokenFolder, match="no folder that can be replaced"):
            gs.save(build("dit").pipe, place, overwrite=True)
    assert (tmp_path / "file").read_text() == "keep me"


def test_saving_again_replaces_and_leaves_no_scratch(copy):
    tiny = build("dit")
    gs.save(tiny.pipe, copy)
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]
    assert torch.equal(tiny.run(pipe=gs.load(copy)), tiny.run())
    assert gs.status(gs.load(copy)).applied == []


def test_a_failing_save_leaves_what_was_there(copy, monkeypatch):
    from gearshift.persist import component

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(component, "write_tensors", fail)
    with pytest.raises(BrokenFolder, match="copy cannot be written: disk full"):
        gs.save(gs.optimize(build("dit").pipe, "qkv_diffusers"), copy)
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]
    gs.load(copy)


def test_the_user_s_own_files_survive_and_old_files_of_ours_go(copy):
    (copy / "README.md").write_text("mine")
    (copy / "transformer" / "notes.txt").write_text("mine too")
    gs.save(build("dit").pipe, copy)
    assert (copy / "README.md").read_text() == "mine" and (copy / "transformer" / "notes.txt").read_text() == "mine too"
    assert not (copy / WEIGHTS).exists()
    gs.load(copy)


def test_a_folder_with_a_damaged_manifest_can_be_saved_over(copy):
    (copy / "gearshift.json").write_text("{")
    (copy / "README.md").write_text("mine")
    gs.save(build("dit").pipe, copy)
    gs.load(copy)
    assert (copy / "README.md").read_text() == "mine"


def test_loading_while_others_save_sees_one_of_the_two(copy):
    """Each load is of one save or of another one, whole; both savers succeed each time."""
    models = [gs.optimize(build("wan").pipe, f"taylor(order={order})") for order in (1, 2)]
    gs.save(models[0], copy)
    failed = []

    def save(model):
        for _ in range(6):
            try:
                gs.save(model, copy)
            except Exception as error:
                failed.append(error)

    savers = [threading.Thread(target=save, args=(model,)) for model in models]
    for saver in savers:
        saver.start()
    loaded = []
    while any(saver.is_alive() for saver in savers):
        loaded.append(gs.status(gs.load(copy)).applied[0]["params"]["order"])
    assert not failed and loaded and set(loaded) <= {1, 2}
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_a_model_that_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(GearshiftError, match="cannot be saved"):
        gs.save(torch.nn.Linear(2, 2), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_language_model_keeps_its_tied_weights(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **sizes)).eval()
    tokens = torch.arange(8)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)  # int8 is slower at toy sizes, and says so
        gs.optimize(model, "torch_dynamic")
    with torch.no_grad():
        expected = model(tokens).logits
    gs.save(model, tmp_path / "llama")
    again = gs.load(tmp_path / "llama")
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, expected)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert type(again) is LlamaForCausalLM and gs.status(again).applied[0]["name"] == "torch_dynamic"


def test_a_tokenizer_comes_along_untouched(tmp_path):
    """A pipeline's other components are written by themselves; the user's objects and files stay as they were."""
    import gearshift.zoo as zoo

    source = zoo.path("text-to-image")
    before = {p: p.read_bytes() for p in source.rglob("*") if p.is_file()}
    pipe = gs.optimize(zoo.load("text-to-image"), "taylor")
    gs.save(pipe, tmp_path / "out")
    assert {p: p.read_bytes() for p in source.rglob("*") if p.is_file()} == before
    again = gs.load(tmp_path / "out")
    assert again.tokenizer("a photo of a red bag").input_ids == pipe.tokenizer("a photo of a red bag").input_ids
