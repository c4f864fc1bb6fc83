"""The small Llama has learned English of a kind: it predicts text that it never read, and writes some."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from gearshift.core.errors import BadValue, BrokenFolder, UnknownName
from gearshift.zoo import language

MEASURED = 30.8  # of the whole validation text; zoo/README.md
needs_model = pytest.mark.skipif(
    not language.folder(must_exist=False).is_dir(), reason="the Llama comes with the repository only"
)


@pytest.fixture(scope="module")
def llama():
    return language.load_language()


def letters(text, **_):
    return SimpleNamespace(input_ids=[ord(letter) - ord("a") for letter in text])


def uniform(input_ids):
    return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 26))


def seer(input_ids):
    """Expects every letter to be followed by the next one of the alphabet."""
    return SimpleNamespace(logits=100.0 * torch.nn.functional.one_hot((input_ids + 1) % 26, 26))


def test_importing_it_imports_no_torch():
    code = "import sys, gearshift.zoo.language; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("window", [2, 7, 256])
def test_perplexity_of_a_blind_guess_is_the_size_of_the_vocabulary(window):
    assert language.perplexity(uniform, letters, "gearshift" * 5, window) == pytest.approx(26, rel=1e-5)


def test_perplexity_of_a_sure_and_right_guess_is_one():
    assert language.perplexity(seer, letters, "abcdefghijklmnopqrstuvwxyz" * 3, window=10) == pytest.approx(1)


def test_the_first_token_of_a_window_is_not_predicted():
    assert language.perplexity(seer, letters, "abcxyz", window=3) == pytest.approx(1)
    assert language.perplexity(seer, letters, "abcxyz", window=6) > 1e6


@pytest.mark.parametrize("text", ["abcabdcdeabe", "abcabdcdeabeabf"])
def test_a_limit_takes_windows_spread_evenly_over_the_text(text):
    assert language.perplexity(seer, letters, text, window=3, limit=2) == pytest.approx(1)
    assert language.perplexity(seer, letters, text, window=3, limit=99) > 1e6
    assert language.perplexity(seer, letters, text, window=3) > 1e6


@pytest.mark.parametrize("bad", [{"window": 1}, {"limit": 0}, {"text": "a"}, {"text": ""}], ids=str)
def test_what_cannot_be_measured_is_refused(bad):
    with pytest.raises(BadValue, match="Perplexity needs"):
        language.perplexity(**({"model": uniform, "tokenizer": letters, "text": "abc"} | bad))


def test_an_unknown_name_and_a_missing_folder_say_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(UnknownName, match="llama"):
        language.load_language("lama")
    monkeypatch.setitem(language._FOLDERS, "llama", tmp_path)
    for missing in (language.load_language, language.validation_text, language.calibration_text):
        with pytest.raises(BrokenFolder, match="checkout of the repository"):
            missing()


@needs_model
def test_it_loads_without_a_word(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = language.load_language()
        half, _ = language.load_language(dtype=torch.bfloat16)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model.modules())
    assert capfd.readouterr() == ("", "")


@needs_model
def test_it_predicts_text_that_it_never_read_far_better_than_untrained(llama):
    model, tokenizer = llama
    text = language.validation_text()
    assert language.perplexity(model, tokenizer, text, limit=32) < 1.1 * MEASURED
    untrained = type(model)(model.config).eval()
    assert language.perplexity(untrained, tokenizer, text, limit=4) > 50 * MEASURED


@needs_model
def test_the_validation_text_is_not_part_of_the_calibration_text():
    validation, calibration = language.validation_text(), language.calibration_text()
    assert 60_000 < len(validation) < 130_000
    assert 60_000 < len(calibration) < 130_000
    verses = set(calibration.splitlines()) - {""}
    assert len(verses & set(validation.splitlines())) < 0.01 * len(verses)


@needs_model
@pytest.mark.parametrize("text", ["In the beginning\n\nGod created", "naïve 北京 <x>", "  two  spaces "])
def test_the_tokenizer_gives_back_any_text(llama, text):
    _, tokenizer = llama
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@needs_model
def test_it_continues_a_verse_with_words(llama):
    model, tokenizer = llama
    prompt = tokenizer("And it came to pass", return_tensors="pt")
    made = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0]
    words = tokenizer.decode(made).replace(",", "").lower().split()
    known = {word.strip(".,;:?!()").lower() for word in language.calibration_text().split()}
    assert len(words) > 15
    assert sum(word.strip(".,;:?!()") in known for word in words) > 0.8 * len(words)


@needs_model
def test_the_folder_is_small_and_holds_no_pickle_and_no_path():
    files = [file for file in language.folder().rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".txt", ".safetensors"}
    assert not [file for file in files if file.suffix == ".json" and '"_name_or_path": "/' in file.read_text()]
    assert sum(file.stat().st_size for file in files) < 14e6
