"""The command line, in this process: what it prints and what it answers to mistakes."""

import json
import subprocess
import sys

import pytest
from support.each import each
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


@each("cls", list(registry()))
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
        (["check", "taylor, periodic"], "both set"),
        (["check", "no.yaml"], "cannot be read"),
        (["optimize", "/no/such/folder/x", "--with", "taylor", "--out", "o"], "cannot be read as a model"),
        (["optimize", "m", "--with", "taylor", "--out", "/proc/x"], "cannot be written"),
        (["optimize", "m", "--with", "taylor", "--out", "/dev/null/x"], "cannot be written"),
        (
            ["optimize", "m", "--with", "taylor", "--out", "o", "--device", "nope"],
            "device must be one of this machine's",
        ),
        (["optimize", "m", "--with", "", "--out", "o"], "names no algorithm"),
        (["optimize", "m", "--with", "taylor", "--out", ""], "--out must be a path"),
        (["check", ""], "names no algorithm"),
        (["check", "taylor(order=[1)"], "cannot be read as a recipe"),
        (["check", "taylor", "--model", ""], "A model must be a path"),
        (["generate", "m", "a prompt", "--steps", "0"], "--steps must be 1 or more"),
        (["generate", "m", "a prompt", "--guidance", "nan"], "--guidance must be a number of 0 or more"),
        (["generate", "m", "a prompt", "--seed", "-1"], "--seed must be from 0"),
        (["generate", "m", "a prompt", "--seed", "9" * 30], "--seed must be from 0"),
        (["generate", "m", ""], "A prompt has no words"),
        (["generate", "m", "a prompt", "--out", "/proc/x"], "cannot be written"),
        (["demo", "--out", "/proc/x"], "cannot be written"),
        (["demo", "--out", "/etc/passwd"], "cannot be written"),
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


def test_a_few_step_folder_generates_in_its_own_steps_and_without_guidance(monkeypatch, tmp_path, capsys):
    import diffusers
    import peft

    from gearshift import zoo

    pipe = zoo.load("text-to-image")
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    state = peft.get_peft_model_state_dict(pipe.unet)
    file = tmp_path / "Hyper-4steps-lora.safetensors"
    pipe.save_lora_weights(tmp_path, unet_lora_layers=state, weight_name=file.name)
    monkeypatch.setenv("GEARSHIFT_HYPER", str(file))
    gs.save(gs.optimize(zoo.load("text-to-image"), "hyper"), tmp_path / "few")
    own, batches = diffusers.UNet2DConditionModel.forward, []

    def counted(self, sample, *args, **kwargs):
        batches.append(len(sample))
        return own(self, sample, *args, **kwargs)

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "forward", counted)
    assert main(["generate", str(tmp_path / "few"), "a red bag", "--out", str(tmp_path / "images")]) == 0
    assert batches == [1] * 4


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


def test_a_runtime_that_takes_the_models_place_is_what_is_saved(capsys, tmp_path):
    build("llama").pipe.save_pretrained(tmp_path / "llama")
    out = tmp_path / "fast"
    assert main(["optimize", str(tmp_path / "llama"), "--with", "c_generate", "--out", str(out)]) == 0
    again = gs.load(out)
    assert type(again).__name__ == "CausalGenerator" and gs.status(again).applied[0]["name"] == "c_generate"


def test_a_pipeline_that_reads_no_prompts_says_so(capsys, folder, tmp_path):
    assert main(["optimize", str(folder), "--with", "fora", "--out", str(tmp_path / "m")]) == 0
    assert main(["generate", str(tmp_path / "m"), "a prompt", "--out", str(tmp_path)]) == 2
    assert "reads no prompts" in capsys.readouterr().err


def test_what_nobody_expected_is_a_line_and_a_traceback_only_for_debugging(capsys, monkeypatch):
    from gearshift.cli import listing

    def fail(_):
        raise TypeError("a bug\nof ours")

    monkeypatch.setattr(listing, "list_all", fail)
    assert main(["list"]) == 1
    assert capsys.readouterr().err == (
        "gearshift: unexpected TypeError: a bug of ours. With --debug the whole traceback is shown.\n"
    )
    with pytest.raises(TypeError):
        main(["--debug", "list"])
    monkeypatch.setenv("GEARSHIFT_DEBUG", "1")
    with pytest.raises(TypeError):
        main(["list"])


def test_doctor_says_that_pipelines_need_their_library(capsys, monkeypatch):
    from gearshift.cli import doctor

    monkeypatch.setattr(doctor, "installed", lambda package: package != "diffusers")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "lacking taylor: the package diffusers: pip install 'gearshift[diffusers]'" in lines
    assert any(line.startswith("runs    gptq") for line in lines)


def test_a_folder_of_somebody_else_is_deleted_only_when_asked_to(tmp_path, capsys):
    build("llama").pipe.save_pretrained(tmp_path / "plain")
    mine = tmp_path / "out" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("keep me")
    command = ["optimize", str(tmp_path / "plain"), "--with", "torch_dynamic", "--out", str(mine.parent)]
    assert main(command) == 2 and mine.read_text() == "keep me"
    assert "or overwrite it" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0 and not mine.exists()
    gs.load(mine.parent)


def test_completions_know_every_command(capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", "bash"])
    assert end.value.code == 0 and " optimize export " in capsys.readouterr().out
