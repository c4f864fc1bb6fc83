"""Generation with caches of fixed size: the same tokens as plain generation, and no cache in two calls at once."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.tiny import build
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from gearshift.algorithms.common.static_cache import IDLE, StaticGeneration

ROOM = 32
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}


class After(StoppingCriteria):
    """Ends, or breaks off, once there are so many tokens."""

    def __init__(self, tokens, error=None):
        self.tokens, self.error = tokens, error

    def __call__(self, ids, scores, **_):
        if self.error and ids.shape[1] >= self.tokens:
            raise self.error
        return torch.full((len(ids),), ids.shape[1] >= self.tokens)


def stopping(*args):
    return StoppingCriteriaList([After(*args)])


@pytest.fixture
def llama():
    return build("llama").pipe


@pytest.fixture
def both():
    """A plain model and the same with static caches."""
    plain, static = build("llama").pipe, build("llama").pipe
    StaticGeneration(static, ROOM, 16).apply()
    return plain, static


def prompt(batch, tokens, seed=None):
    generator = torch.Generator().manual_seed(batch if seed is None else seed)
    return torch.randint(3, 128, (batch, tokens), generator=generator)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_greedy_tokens_are_those_of_plain_generation(llama, batch, tokens):
    given = GREEDY | {"max_new_tokens": 12}
    expected = llama.generate(prompt(batch, tokens), **given)
    change = StaticGeneration(llama, ROOM, 16)
    change.apply()
    for _ in range(2):
        assert torch.equal(llama.generate(prompt(batch, tokens), **given), expected)
    assert len(llama.generate.pool.idle) == 1, "the second call uses the first one's cache"
    twin = copy.deepcopy(llama)
    assert twin.generate.pool is not llama.generate.pool
    assert torch.equal(twin.generate(prompt(batch, tokens), **given), expected)
    change.revert()
    assert "generate" not in vars(llama)


SERVED = {
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "guidance": {"guidance_scale": 1.5},
    "stopping": {"stopping_criteria": stopping(9)},
    "max_length": {"max_new_tokens": None, "max_length": 24},
    "no length": {"max_new_tokens": None},
    "configuration": {"generation_config": GenerationConfig(max_new_tokens=6, do_sample=False)},
}
UNSERVED = {
    "long": {"max_new_tokens": ROOM + 8},
    "beams": {"num_beams": 2},
    "sampled beams": {"num_beams": 2, "do_sample": True, "num_return_sequences": 2},
    "no cache": {"use_cache": False},
    "dict": {"return_dict_in_generate": True, "output_attentions": True},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "own static cache": {"cache_implementation": "static"},
    "chunks": {"prefill_chunk_size": 4},
}


@pytest.mark.parametrize("name", [*SERVED, *UNSERVED])
def test_every_way_to_generate_gives_plain_tokens(both, name):
    plain, static = both
    given = GREEDY | SERVED.get(name, UNSERVED.get(name))
    for tokens in (6, 20):
        found = []
        for model in (plain, static):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                out = model.generate(prompt(1, tokens), **{k: v for k, v in given.items() if v is not None})
            found.append(getattr(out, "sequences", out))
        assert torch.equal(*found)
    assert bool(static.generate.pool.idle) == (name in SERVED)
    assert bool(static.generate.notes) == (name in UNSERVED)


def test_assisted_generation_and_embeddings_give_plain_tokens(both):
    plain, static = both
    for model in both:
        model.generation_config.pad_token_id = 0
    for assistant in (static, plain):
        given = GREEDY | {"assistant_model": assistant}
        assert torch.equal(static.generate(prompt(1, 6), **given), plain.generate(prompt(1, 6), **GREEDY))
        assert torch.equal(plain.generate(prompt(1, 6), **given), plain.generate(prompt(1, 6), **GREEDY))
    embedded = plain.get_input_embeddings()(prompt(1, 6))
    assert torch.equal(*(m.generate(inputs_embeds=embedded, **GREEDY) for m in both))


def test_a_conversation_goes_on_after_other_calls(both):
    said = []
    for model in both:
        first = model.generate(prompt(1, 6), **GREEDY, return_dict_in_generate=True)
        model.generate(prompt(1, 6, seed=7), **GREEDY)
        asked = torch.cat([first.sequences, prompt(1, 3, seed=5)], 1)
        said.append(model.generate(asked, past_key_values=first.past_key_values, **GREEDY))
    assert torch.equal(*said)


def test_threads_get_the_tokens_of_calls_one_after_the_other(both):
    plain, static = both
    prompts = [prompt(1, 6, seed) for seed in range(4)]
    expected = [plain.generate(p, **GREEDY) for p in prompts]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: static.generate(prompts[n % 4], **GREEDY), range(32)))
    assert all(torch.equal(tokens, expected[n % 4]) for n, tokens in enumerate(made))


def test_broken_off_and_nested_calls_leave_nothing_behind(both):
    plain, static = both
    expected = plain.generate(prompt(1, 6), **GREEDY)
    with pytest.raises(KeyboardInterrupt):
        static.generate(prompt(1, 6), **GREEDY, stopping_criteria=stopping(9, KeyboardInterrupt()))
    assert torch.equal(static.generate(prompt(1, 6), **GREEDY), expected)

    class Asks(StoppingCriteria):
        def __call__(self, ids, scores, **_):
            assert torch.equal(static.generate(prompt(1, 6), **GREEDY), expected)
            return torch.zeros(len(ids), dtype=torch.bool)

    outer = static.generate(prompt(1, 6, 9), **GREEDY, stopping_criteria=StoppingCriteriaList([Asks()]))
    assert torch.equal(outer, plain.generate(prompt(1, 6, 9), **GREEDY))


def test_calls_in_inference_mode_and_in_another_type_have_caches_of_their_own(both):
    plain, static = both
    with torch.inference_mode():
        static.generate(prompt(1, 6), **GREEDY)
    assert torch.equal(static.generate(prompt(1, 6), **GREEDY), plain.generate(prompt(1, 6), **GREEDY))
    for model in both:
        model.to(torch.bfloat16)
    assert torch.equal(static.generate(prompt(1, 6), **GREEDY), plain.generate(prompt(1, 6), **GREEDY))


def test_only_a_few_caches_wait(both):
    for batch in range(1, IDLE + 3):
        both[1].generate(prompt(batch, 5), **GREEDY)
    assert len(both[1].generate.pool.idle) == IDLE


def test_models_that_have_no_static_caches_run_as_they_are(both):
    static = both[1]
    static._can_compile_fullgraph = False
    assert torch.equal(*(m.generate(prompt(1, 6), **GREEDY) for m in both))
    assert "does not run with static caches" in static.generate.notes[0]
