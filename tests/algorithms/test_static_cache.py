"""Generation with caches of fixed size: the same tokens, from caches that are used again."""

import copy

import pytest
import torch
from support.tiny import build

from gearshift.algorithms.compilers.static_cache import StaticGeneration


@pytest.fixture
def llama():
    return build("llama").pipe


def prompt(batch, tokens):
    return torch.randint(3, 128, (batch, tokens), generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_greedy_tokens_are_those_of_plain_generation(llama, batch, tokens):
    given = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = llama.generate(prompt(batch, tokens), **given)
    change = StaticGeneration(llama, 32, 16)
    change.lay()
    for _ in range(2):
        assert torch.equal(llama.generate(prompt(batch, tokens), **given), expected)
    assert list(llama.generate.caches) == [(batch, -(-tokens // 16) * 16 + 32)]
    twin = copy.deepcopy(llama)
    assert torch.equal(twin.generate(prompt(batch, tokens), **given), expected)
    change.lift()
    assert "generate" not in vars(llama)


@pytest.mark.parametrize("more", [{"max_new_tokens": 40}, {"num_beams": 2}, {"use_cache": False}])
def test_calls_that_do_not_fit_run_as_they_are(llama, more):
    given = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0} | more
    expected = llama.generate(prompt(1, 5), **given)
    StaticGeneration(llama, 32, 16).lay()
    assert torch.equal(llama.generate(prompt(1, 5), **given), expected)
    assert not llama.generate.caches
