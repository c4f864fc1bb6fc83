"""Of a saved folder nothing is read but the files that its manifest lists, and these are the folder's own."""

import hashlib
import json
import os

import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.core.context import Context
from gearshift.core.errors import BrokenFolder
from gearshift.core.recipe import Recipe
from gearshift.core.record import Applied, Record, record_of
from gearshift.persist.manifest import MANIFEST, read_manifest


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "model"
    gs.save(gs.optimize(build("dit").pipe, "fora"), folder)
    return folder


def listed_again(folder, change=lambda manifest: None):
    """The manifest with the hashes of all files as they are now."""
    manifest = json.loads((folder / MANIFEST).read_text())
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST]
    manifest["files"] = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def unlist(manifest, start):
    manifest["files"] = {name: digest for name, digest in manifest["files"].items() if not name.startswith(start)}


def test_unlisted_files_are_the_users_own_and_never_read(saved):
    tiny = build("dit")
    (saved / "notes.txt").write_text("mine")
    (saved / "transformer" / "evil.py").write_text("raise SystemExit")
    (saved / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"no pickle is looked at")
    again = gs.load(saved)
    gs.optimize(tiny.pipe, "fora")
    assert torch.equal(tiny.run(pipe=again), tiny.run())
    assert (saved / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize("listed", [True, False])
def test_links_are_refused(saved, tmp_path, what, listed):
    place = saved / "transformer"
    place = next(place.glob("*.safetensors")) if what == "file" else place
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    listed_again(saved, lambda m: None if listed else [m["files"].pop(n) for n in [*m["files"]] if "transformer" in n])
    with pytest.raises(BrokenFolder, match="is a link" if listed and what == "file" else str(saved)):
        gs.load(saved)


def test_the_folder_itself_may_be_reached_through_a_link(saved, tmp_path):
    (tmp_path / "link").symlink_to(saved)
    assert type(gs.load(tmp_path / "link")).__name__ == "DiTPipeline"


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a//b", "a/./b", "a\0b", "a\\..\\b", "C:/x", "\ud800", "a" * 300, "", "."]
)
def test_names_that_lead_elsewhere_are_refused(saved, name):
    listed_again(saved, lambda m: m["files"].update({name: "0" * 64}))
    with pytest.raises(BrokenFolder, match=r"gearshift\.json cannot be read as a manifest") as caught:
        gs.load(saved)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda m: m["applied"][0].update(params=[1]), r"applied\[0\]\.params must be a dict"),
        (lambda m: m["applied"][0].pop("saved"), r"applied\[0\] lacks 'saved'"),
        (lambda m: m["applied"][0].update(files=["x.pt2"]), r"fora needs the file 'x\.pt2', which is not listed"),
        (lambda m: m.update(dtypes={"transformer": "load"}), r"dtypes\.transformer must be one of"),
        (lambda m: m.update(changed="transformer"), "changed must be a list"),
        (lambda m: m["settings"].update(batch_size=10**30), r"settings\.batch_size must be an int from 1"),
        (lambda m: m.update(more=1), "it has 'more', which is unknown here"),
        (lambda m: m.update(format=True), "format must be an int"),
        (lambda m: m.update(made_with={"torch": 2}), r"made_with\.torch must be a string"),
        (lambda m: m.pop("tensors"), "it lacks 'tensors'"),
        (lambda m: m.pop("model"), "it lacks 'model'"),
        (lambda m: m["tensors"].pop("vae"), r"gearshift\.json says nothing of the tensors of vae"),
        (lambda m: unlist(m, "vae/"), r"gearshift\.json lists no file of vae, which model_index\.json names"),
        (lambda m: unlist(m, "transformer/config.json"), r"not read: 'transformer/config\.json'\."),
        (lambda m: unlist(m, "scheduler/"), r"not read: 'scheduler/scheduler_config\.json'\."),
    ],
)
def test_every_field_has_a_shape_and_a_sentence_with_its_place(saved, change, place):
    listed_again(saved, change)
    with pytest.raises(BrokenFolder, match=place):
        gs.load(saved)


@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
@pytest.mark.parametrize(
    ("recipe", "saved", "place"),
    [
        ("fora", {"more": 1}, r"applied\[0\]\.saved has 'more', which is unknown here"),
        ("half", {"wide": 1}, r"applied\[0\]\.saved\.wide must be a list"),
        ("fp8", {"paths": {"transformer": {"x": {"format": 1}}}}, r"\.saved\.paths\.transformer\.x\.format must be"),
        ("taylor_auto", {"schedules": {"x": 1}}, r"\.saved\.schedules\.x must be a dict"),
    ],
)
def test_what_an_algorithm_keeps_has_the_shape_that_it_declares(tmp_path, recipe, saved, place):
    folder = tmp_path / "model"
    gs.save(gs.optimize(build("dit").pipe, recipe), folder)
    listed_again(folder, lambda m: m["applied"][0]["saved"].update(saved))
    with pytest.raises(BrokenFolder, match=place):
        gs.load(folder)


def test_what_loading_would_refuse_is_not_saved_and_the_old_folder_stays(tmp_path):
    pipe = gs.optimize(build("dit").pipe, "taylor_auto")
    gs.save(pipe, tmp_path / "model")
    record_of(pipe).applied[0].saved["plan"] = ["a list where a text is declared"]
    with pytest.raises(BrokenFolder, match=r"the data that taylor_auto keeps\.plan must be a string"):
        gs.save(pipe, tmp_path / "model")
    assert type(gs.load(tmp_path / "model")) is type(pipe)


def test_an_algorithm_keeps_nothing_that_it_does_not_declare():
    context = Context(Recipe.of("fora"), Record(), applied=Applied(Recipe.of("fora").algorithms[0]))
    with pytest.raises(TypeError, match="fora saves 'more', which its saved_fields do not declare"):
        context.save(more=1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"format": 1, "format": 1}', "'format' is there twice"),
        ('{"format": ' + "1" * 6000 + "}", "digits"),
        ("\ud800".encode("utf-8", "surrogatepass"), "utf-8"),
        ("5", "must be a dict"),
    ],
)
def test_what_is_no_manifest_is_one_sentence(tmp_path, text, why):
    (tmp_path / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BrokenFolder, match=why) as caught:
        read_manifest(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_pipe_in_a_files_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(BrokenFolder):
        gs.load(tmp_path)


@pytest.mark.parametrize("pair", [["os", "system"], ["subprocess", "Popen"], ["evil", "Evil"], ["diffusers", 5]])
def test_components_of_other_libraries_are_refused(saved, pair):
    path = saved / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "transformer": pair}))
    listed_again(saved)
    with pytest.raises(BrokenFolder, match=r"names a class|must be"):
        gs.load(saved)


def test_a_folder_says_what_it_was_made_with(saved):
    made = json.loads((saved / MANIFEST).read_text())["made_with"]
    assert made["torch"] == torch.__version__ and {"gearshift", "diffusers", "transformers", "machine"} <= made.keys()
    listed_again(saved, lambda m: m.pop("made_with"))
    gs.load(saved)


def test_a_folder_of_another_release_that_does_not_load_says_so(saved):
    listed_again(saved, lambda m: m.update(model="diffusers:NoPipeline", made_with={"diffusers": "0.0.1"}))
    with pytest.raises(BrokenFolder, match=r"NoPipeline.* It was saved with diffusers 0\.0\.1; here: diffusers"):
        gs.load(saved)


def test_format_1_becomes_the_newest(saved):
    def older(manifest):
        manifest["format"] = 1
        manifest["dtypes"] = {name: facts["dtype"] for name, facts in manifest["tensors"].items()}
        for name in ("made_with", "tensors", "fused", "readers"):
            del manifest[name]

    listed_again(saved, older)
    assert read_manifest(saved)["format"] == 2
    gs.load(saved)
