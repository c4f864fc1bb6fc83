"""A tokenizer or processor is saved with its model, from a recipe, an attribute or the command line, and comes back."""

import pytest
import torch
from support.tiny import build
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import gearshift as gs
from gearshift.cli import main
from gearshift.core.errors import GearshiftWarning

TEXT = "a red bag"


@pytest.fixture
def tokenizer():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "red": 2, "bag": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


def with_a_recipe(model, tokenizer):
    return gs.optimize(model, "hqq", tokenizer=tokenizer)


def as_an_attribute(model, tokenizer):
    model.tokenizer = tokenizer
    return model


@pytest.mark.parametrize("given", [with_a_recipe, as_an_attribute])
@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
def test_a_tokenizer_comes_back_and_is_saved_again(given, tokenizer, tmp_path):
    gs.save(given(build("llama").pipe, tokenizer), tmp_path / "one")
    gs.save(gs.load(tmp_path / "one"), tmp_path / "two")
    again = gs.load(tmp_path / "two").tokenizer
    assert type(again) is type(tokenizer) and again(TEXT).input_ids == tokenizer(TEXT).input_ids == [1, 2, 3]


@pytest.mark.parametrize("recipe", ["hqq", "c_generate"])
def test_the_command_line_keeps_the_tokenizer(recipe, tokenizer, tmp_path, capsys):
    model = build("llama").pipe
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    assert main(["optimize", str(tmp_path / "plain"), "--with", recipe, "--out", str(tmp_path / "fast")]) == 0
    again = gs.load(tmp_path / "fast")
    assert again.tokenizer(TEXT).input_ids == [1, 2, 3]
    assert again.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2).shape[-1] >= 2


def test_a_reader_of_another_library_is_told_and_left_out(tmp_path):
    class Mine:
        def save_pretrained(self, folder):
            raise AssertionError("it is not asked")

    model = build("llama").pipe
    model.tokenizer = Mine()
    with pytest.warns(GearshiftWarning, match="The tokenizer is not saved"):
        gs.save(model, tmp_path / "x")
    assert not hasattr(gs.load(tmp_path / "x"), "tokenizer")
