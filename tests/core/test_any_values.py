"""What is written is read back, whatever it is: recipes, packed codes, trees of tensors, manifests."""

import json
from typing import NamedTuple

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gearshift import Recipe
from gearshift.core.errors import BadRecipe
from gearshift.core.registry import registry
from gearshift.persist.formats import FORMAT, manifest_of
from gearshift.quant.formats import gaussian_grid, grouped
from gearshift.steps.tree import mapped, structure, tensors, with_tensors

CLASSES = {cls.name: cls for cls in registry()}
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
DIGEST = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
NUMBERS = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
some = settings(max_examples=60, deadline=None, derandomize=True, database=None)


class Pair(NamedTuple):
    one: object
    two: object


def algorithms(name):
    """An algorithm with any of the values that its parameters take."""
    params = CLASSES[name].params()
    values = {key: st.sampled_from(list(param.bound.samples())) for key, param in params.items() if param.bound}
    return st.fixed_dictionaries({}, optional=values).map(lambda given: CLASSES[name].make(given))


@st.composite
def recipes(draw):
    names = draw(st.lists(st.sampled_from(sorted(CLASSES)), max_size=3, unique=True))
    globs, shared = st.lists(TEXT, max_size=3), {}
    if draw(st.booleans()):
        shared = {"seed": draw(st.integers(0, 2**64 - 1)), "batch_size": draw(st.integers(1, 512))}
        shared |= {
            "include": draw(globs),
            "exclude": draw(globs),
            "device": draw(st.sampled_from([None, "cpu", "cuda:1"])),
        }
    try:
        return Recipe.of([draw(algorithms(name)) for name in names], **shared)
    except BadRecipe:  # these do not go together
        assume(False)


@some
@given(recipes())
def test_a_recipe_is_read_from_its_text_its_dict_and_its_json(recipe):
    assert Recipe.of(str(recipe)) == recipe
    assert Recipe.of(recipe.to_dict()) == recipe
    assert Recipe.of(json.loads(json.dumps(recipe.to_dict()))) == recipe


@some
@given(st.data(), st.sampled_from(sorted(grouped.PLANES)), st.integers(1, 3), st.integers(1, 100))
def test_codes_of_any_width_are_unpacked_as_they_were_packed(data, bits, rows, width):
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=rows * width, max_size=rows * width))
    codes = torch.tensor(codes, dtype=torch.uint8).view(rows, width)
    packed = grouped.pack(codes, bits)
    assert packed.shape == (rows, -(-width // grouped.BLOCK) * grouped.BLOCK * bits // 8)
    assert torch.equal(grouped.unpack(packed, bits, width), codes)


@some
@given(st.data(), st.sampled_from([2, 3, 4]), st.integers(1, 3), st.integers(1, 12))
def test_codes_of_pairs_are_unpacked_as_they_were_packed(data, bits, rows, fours):
    count = rows * 4 * fours
    codes = data.draw(st.lists(st.integers(0, 4**bits - 1), min_size=count, max_size=count))
    codes = torch.tensor(codes, dtype=torch.uint8).view(rows, -1)
    packed = gaussian_grid.pack(codes, bits)
    assert packed.numel() * 8 == codes.numel() * 2 * bits
    assert torch.equal(gaussian_grid.unpack(packed, bits), codes)


LEAVES = st.none() | NUMBERS | TEXT | st.booleans() | st.integers(0, 9).map(lambda n: torch.full((n % 3,), float(n)))
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXT, inner, max_size=3)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=12,
)


@some
@given(TREES)
def test_a_tree_keeps_its_structure_around_other_tensors(tree):
    found = tensors(tree)
    new = [t + 1 for t in found]
    made = with_tensors(tree, list(new))
    assert structure(made) == structure(tree) and len(tensors(made)) == len(found)
    assert all(a is b for a, b in zip(tensors(made), new, strict=True))
    again = mapped(made, lambda t: t - 1)
    assert structure(again) == structure(tree)
    assert all(torch.equal(a, b) for a, b in zip(tensors(again), found, strict=True))
    assert all(a is b for a, b in zip(tensors(tree), found, strict=True))  # the tree itself is as it was


PLAIN = st.recursive(st.none() | st.booleans() | NUMBERS | TEXT, lambda x: st.lists(x, max_size=2), max_leaves=4)
APPLIED = st.fixed_dictionaries(
    {"name": NAME, **dict.fromkeys(("params", "saved", "figures"), st.dictionaries(NAME, PLAIN, max_size=3))},
    optional={"notes": st.lists(TEXT, max_size=2)},
)
MANIFESTS = st.fixed_dictionaries(
    {
        "format": st.just(FORMAT),
        "model": st.just("diffusers:DiTPipeline"),
        "changed": st.just([]),
        "applied": st.lists(APPLIED, max_size=3),
        "settings": st.fixed_dictionaries({}, optional={"seed": st.integers(0, 2**64 - 1), "include": st.lists(TEXT)}),
        "files": st.dictionaries(st.lists(NAME, min_size=1, max_size=3).map("/".join), DIGEST, max_size=3),
        "tensors": st.just({}),
        "fused": st.lists(TEXT, max_size=2),
        "readers": st.dictionaries(NAME, st.just("transformers:BertTokenizer"), max_size=2),
    },
    optional={"made_with": st.dictionaries(NAME, TEXT, max_size=2)},
)


@some
@given(MANIFESTS)
def test_a_manifest_is_read_as_it_was_written(manifest):
    read = manifest_of(json.loads(json.dumps(manifest)))
    assert {key: read[key] for key in manifest} == manifest
    assert manifest_of(json.loads(json.dumps(read))) == read
