"""gearshift evaluate: what it prints and writes, and what it answers to mistakes."""

import json

import pytest
from support.tiny import build

from gearshift.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    where = tmp_path_factory.mktemp("measuring")
    build("llama").pipe.save_pretrained(where / "llama")
    lines = [
        {"input_ids": list(range(3, 19)), "max_new_tokens": 2},
        {"input_ids": list(range(40, 60)), "max_new_tokens": 2},
    ]
    (where / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (where / "empty.txt").write_text("\n")
    return where


def test_a_recipe_is_measured_beside_the_model_without_it(place, capsys):
    words = ["evaluate", str(place / "llama"), "--with", "torch_unstructured", "--data", str(place / "data.jsonl")]
    wanted = [
        "--metric",
        "kl",
        "--metric",
        "speedup",
        "--json",
        str(place / "e.json"),
        "--report",
        str(place / "e.html"),
    ]
    assert main([*words, *wanted]) == 0
    assert "LlamaForCausalLM with torch_unstructured" in capsys.readouterr().out
    found = json.loads((place / "e.json").read_text())
    assert found["figures"]["kl"]["value"] > 0 and (place / "e.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["no/such", "--data", "{}/data.jsonl"], "cannot be read as a model"),
        (["{}/llama", "--data", "{}/none.txt"], "is not there"),
        (["{}/llama", "--data", "{}/llama/config.json"], "cannot be read as examples"),
        (["{}/llama", "--data", "{}/empty.txt"], "no example"),
        (["{}/llama", "--data", "{}/data.jsonl", "--metric", "psnr"], "is for a diffusion pipeline"),
        (["{}/llama", "--data", "{}/data.jsonl", "--metric", "perplexiti"], "did you mean 'perplexity'"),
        (["{}/llama", "--data", "{}/data.jsonl", "--metric", "kl"], "give `against`"),
        (["{}/llama", "--data", "{}/data.jsonl", "--with", "tailor"], "did you mean 'taylor'"),
        (["{}/llama", "--data", "{}/data.jsonl", "--json", "/proc/x"], "cannot be written"),
    ],
)
def test_mistakes_are_one_sentence(words, answer, place, capsys):
    assert main(["evaluate", *(w.format(place) for w in words)]) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--keep", "psnr>=30"], "is for a diffusion pipeline"),
        (["--keep", "perplexity is low"], "is written as"),
        (["--objective", "speed"], "no objective"),
        (["--budget", "soon"], "budget is a time"),
        (["--only", "tailor"], "did you mean 'taylor'"),
        ([], "needs 3 or more"),
    ],
)
def test_tuning_that_cannot_be_is_one_sentence(words, answer, place, capsys, tmp_path):
    pytest.importorskip("optuna")
    whole = ["tune", str(place / "llama"), "--data", str(place / "data.jsonl"), "--out", str(tmp_path / "t"), *words]
    assert main(whole) == 2
    assert answer in capsys.readouterr().err
