"""A folder of unknown origin runs no code: not by its index, its configurations, its weights or its file names."""

import ast
import json
import pickle
import sys
from pathlib import Path

import peft
import pytest
import torch
from support.folders import rehashed
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BrokenFolder

ROOT = Path(gs.__file__).parent
CODE = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n"


class Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran')",)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A pipeline and a language model, saved."""
    root = tmp_path_factory.mktemp("trust")
    gs.save(gs.optimize(build("wan").pipe, "taylor"), root / "pipeline")
    model = build("llama").pipe
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]), "one")
    gs.save(model, root / "model")
    return root


def edit(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def component_with_code(folder):
    (folder / "transformer" / "evil.py").write_text(CODE)
    edit(folder / "model_index.json", transformer=["evil", "Evil"])


def other_library(folder):
    edit(folder / "model_index.json", vae=["subprocess", "Popen"])


def pipeline_with_code(folder):
    (folder / "pipeline.py").write_text(CODE)
    edit(folder / "model_index.json", _class_name=["pipeline", "Evil"])


def pickled_weights(folder):
    (file,) = (folder / "transformer").glob("*.safetensors")
    file.unlink()
    with (folder / "transformer" / "diffusion_pytorch_model.bin").open("wb") as stream:
        pickle.dump(Payload(), stream)


def automatic_class(folder):
    (folder / "evil.py").write_text(CODE)
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Evil"})
    edit(folder / "gearshift.json", model="transformers:AutoModelForCausalLM")


def module_in_an_adapter(folder):
    settings = json.loads((folder / "adapters.json").read_text())
    settings["configs"]["one"] |= {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}
    (folder / "adapters.json").write_text(json.dumps(settings))


HOSTILE = {
    "component with code": ("pipeline", component_with_code, "names a class of 'evil'"),
    "another library": ("pipeline", other_library, "names a class of 'subprocess'"),
    "pipeline with code": ("pipeline", pipeline_with_code, "_class_name must be"),
    "pickled weights": ("pipeline", pickled_weights, "no file named diffusion_pytorch_model.safetensors"),
    "automatic class": ("model", automatic_class, "not a model class"),
    "module in an adapter": ("model", module_in_an_adapter, "megatron_config is not supported"),
}


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_code_in_a_folder_is_refused_and_never_run(name, listed, folders, tmp_path):
    which, spoil, words = HOSTILE[name]
    folder = rehashed(folders / which, tmp_path / "x", spoil, every_file=listed)
    with pytest.raises(BrokenFolder, match=words):
        gs.load(folder)
    assert not list(folder.rglob("ran")) and "antigravity" not in sys.modules


def test_native_classes_do_not_look_at_the_names_of_code(folders, tmp_path):
    def spoil(folder):
        (folder / "evil.py").write_text(CODE)
        edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Evil"})

    folder = rehashed(folders / "model", tmp_path / "x", spoil)
    assert type(gs.load(folder)).__name__ == "LlamaForCausalLM" and not list(folder.rglob("ran"))
    assert torch.load is torch.load


def calls():
    """Every call of a `from_pretrained` in the package, but for those of the scripts that train the zoo."""
    for path in sorted(ROOT.rglob("*.py")):
        if "train" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


OWN = {"WhisperGenerator"}  # gearshift's own classes, which read files by name


@pytest.mark.parametrize("place, call", [pytest.param(p, c, id=p) for p, c in calls()])
def test_every_loading_says_that_nothing_is_trusted(place, call):
    if getattr(call.func.value, "id", "") in OWN or (place.startswith("persist/reload.py") and len(call.args) == 1):
        return
    said = {k.arg for k in call.keywords}
    assert None in said or said & {"local_files_only", "trust_remote_code"}
