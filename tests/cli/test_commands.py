"""The command line, in this process: what it prints and what it answers to mistakes."""

import json
import subprocess
import sys

import pytest
from support.tiny import build

import gearshift as gs
from gearshift.cli import main
from gearshift.core.registry import registry


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("cli") / "dit"
    build("dit").pipe.save_pretrained(where)
    return where


def test_list_json_has_every_algorithm_with_its_fields(capsys):
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {a["name"] for a in found} == {c.name for c in registry()}
    assert all({"family", "summary", "params", "works_with", "extra", "devices"} <= a.keys() for a in found)
    assert all(("choices" in p) != ("range" in p) for a in found for p in a["params"])


def test_list_prints_a_table(capsys):
    assert main(["list"]) == 0
    assert "deepcache" in capsys.readouterr().out


@pytest.mark.parametrize("cls", list(registry()), ids=lambda c: c.name)
def test_info_shows_every_parameter_and_what_is_allowed(cls, capsys):
    assert main(["info", cls.name]) == 0
    text = capsys.readouterr().out
    assert all(f"{name} = {p.default!r}" in text and str(p.bound) in text for name, p in cls.params().items())


def test_check_prints_the_order(capsys, folder):
    assert main(["check", "fora(interval=3), qkv_diffusers", "--model", str(folder)]) == 0
    text = capsys.readouterr().out
    assert text.index("1. qkv_diffusers") < text.index("2. fora(interval=3")
    assert "can be applied" in text


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["info", "tailor"], "did you mean 'taylor'"),
        (["check", "taylor, periodic"], "would both decide"),
        (["check", "no.yaml"], "cannot be read"),
        (["optimize", "/no/such/folder/x", "--with", "taylor", "--out", "o"], "cannot be opened"),
        (["generate", "/no/such/folder", "a prompt"], "not a folder saved by gearshift"),
        (["demo", "--images", "0"], "--images must be 1 or more"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, answer, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert answer in captured.err and captured.err.count("\n") == 1 and not captured.out
    assert list(tmp_path.iterdir()) == []


def test_check_against_a_model_gives_the_reason(capsys, folder):
    assert main(["check", "deepcache", "--model", str(folder)]) == 2
    assert "needs a U-Net" in capsys.readouterr().err


def test_optimize_writes_a_folder_that_loads(capsys, folder, tmp_path):
    assert main(["optimize", str(folder), "--with", "qkv_diffusers, fora", "--out", str(tmp_path / "fast")]) == 0
    assert "gearshift.load(" in capsys.readouterr().out
    assert [a["name"] for a in gs.status(gs.load(tmp_path / "fast")).applied] == ["qkv_diffusers", "fora"]


def test_the_shipped_model_is_optimized_and_generates_from_the_command_line(capsys, tmp_path):
    from PIL import Image

    from gearshift import zoo

    out = str(tmp_path / "fast")
    assert main(["optimize", str(zoo.path("text-to-image")), "--with", "qkv_diffusers, taylor", "--out", out]) == 0
    prompts = ["a photo of a red bag", "a photo of a blue coat"]
    assert main(["generate", out, *prompts, "--steps", "10", "--out", str(tmp_path / "images")]) == 0
    found = sorted(p.name for p in (tmp_path / "images").iterdir())
    assert found == ["a-photo-of-a-blue-coat-1.png", "a-photo-of-a-red-bag-0.png"]
    red, green, _ = Image.open(tmp_path / "images" / found[1]).convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert red > 4 * green


def test_a_language_model_is_opened_with_its_head(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    from gearshift.cli.work import open_model

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(tmp_path)
    assert type(open_model(str(tmp_path))) is LlamaForCausalLM


def test_doctor_names_every_algorithm(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert all(c.name in text for c in registry()) and "cpu: computes in float32" in text


def test_the_module_runs_and_says_its_version():
    run = subprocess.run([sys.executable, "-m", "gearshift", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"gearshift {gs.__version__}"
