import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.each import each

from gearshift import Recipe
from gearshift.core.errors import BadRecipe
from gearshift.core.literal import read_recipe, written
from gearshift.core.param import Range
from gearshift.core.registry import registry
from gearshift.core.yamls import read_yaml, write_yaml
from gearshift.precision import ProfilePreset

WAYS = [
    ["qkv_diffusers", {"taylor": {"order": 1}}],
    "qkv_diffusers, taylor(order=1)",
    "taylor(order=1) + qkv_diffusers",
    {"taylor": {"order": 1}, "qkv_diffusers": None},
    {"algorithms": ["qkv_diffusers", {"taylor": {"order": 1}}]},
    [{"taylor": {"order": 1}, "qkv_diffusers": True, "half": False}],
]


@each("way", WAYS)
def test_every_way_to_write_a_recipe_gives_the_same_one(way):
    assert str(Recipe.of(way)) == "qkv_diffusers, taylor(order=1)"


def test_keywords_yaml_file_and_round_trips(tmp_path):
    recipe = Recipe.of(taylor={"order": 1}, qkv_diffusers=True, batch_size=4, seed=7)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert (
        Recipe.of(tmp_path / "r.yaml") == Recipe.of(str(tmp_path / "r.yaml")) == Recipe.of(recipe.to_dict()) == recipe
    )
    assert (recipe.batch_size, recipe.seed) == (4, 7)


@each(
    ("bad", "words"),
    [
        ("tailor", "did you mean 'taylor'?"),
        ("taylor(order=9)", "must be one of 1, 2, 3, 4"),
        ("taylor, periodic", "both set which steps are computed"),
        ("taylor, taylor", "in the recipe twice"),
        ("taylor(order", "cannot be read as a recipe"),
        ("taylor(3)", "name=value"),
        ("no-such.yaml", "cannot be read"),
        (7, "Got 7 instead"),
        ([7], "Got 7 instead"),
        ({"taylor": 3}, "takes a dict of parameters"),
        ({"batch_size": 0, "taylor": None}, "batch_size must be an int of 1 or more"),
        ({"batchsize": 3, "taylor": None}, "did you mean 'batch_size'"),
        ({"algorithms": 5}, "algorithms of a recipe are a list"),
        ({"taylor": None, "device": 5}, "device must be a name"),
        ({"taylor": None, "device": 10**5000}, "device must be a name"),
        ({"taylor": None, "device": "cuda:-1"}, "device must be a name"),
        ({"taylor": None, "data": 5}, "data must be a list"),
        ({"taylor": None, "seed": 10**40}, "seed must be an int"),
        ({1: {}}, "no algorithm or setting 1"),
        ({"taylor": {1: 2}}, "no parameter of taylor 1"),
        ("taylor(order=[1)", "cannot be read as a recipe"),
        ("taylor(order={1: 2)", "cannot be read as a recipe"),
        ("taylor(order=1) fora", "a comma between algorithms is missing"),
        ("taylor(order=2001-13-45)", "must be one of 1, 2, 3, 4. Got '2001-13-45'"),
        ("taylor(" * 10_000, "cannot be read as a recipe"),
        ("taylor(order=" + "[" * 1000, "cannot be read as a recipe"),
        ("a" * 50_000 + "(", "cannot be read as a recipe"),
        ("a, " * 5000, "more faults"),
        ("taylor(order=\0)", "must be one of"),
    ],
)
def test_bad_recipes_are_told_in_a_sentence(bad, words):
    with pytest.raises(BadRecipe) as caught:
        Recipe.of(bad)
    assert words in str(caught.value)
    assert all("\n" not in problem and len(problem) < 1500 for problem in caught.value.problems)


def test_all_faults_come_at_once():
    with pytest.raises(BadRecipe) as caught:
        Recipe.of("tailor, fora(interval=99), half(x=1)")
    assert len(caught.value.problems) == 3


def test_broken_yaml_names_the_file(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [")
    with pytest.raises(BadRecipe, match=r"broken\.yaml cannot be read as YAML"):
        Recipe.of(path)


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "line 2 has an alias"),
        ("algorithms: &a [*a]\n", "has an alias"),
        ("[" * 20_000, "nested too deeply"),
        ("# " + "x" * 200_000, "at most 131072 are read"),
        ("taylor: {order: 1}\ntaylor: {order: 2}\n", "line 2 has the key 'taylor' twice"),
        ("{[1]: 2}", "a key that is no name"),
        ("taylor: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("taylor: {order: !!int a}\n", "invalid literal"),
        ("taylor: {order: !!bool z}\n", "KeyError"),
        ("taylor: {order: " + "9" * 6000 + "}\n", "digits"),
        (b"\xff\xfe\0taylor", "utf-8"),
    ],
    ids=range(11),
)
def test_yaml_that_is_no_plain_data_is_one_sentence(tmp_path, text, why):
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadRecipe, match=why) as caught:
        Recipe.of(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_of_yaml_and_of_strings_are_numbers(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("text_to_image_lora: {learning_rate: 1e-5}\n")
    for recipe in (Recipe.of(path), Recipe.of("text_to_image_lora(learning_rate=1e-5)")):
        assert recipe.algorithms[0].learning_rate == 1e-5


def test_one_example_is_data():
    assert Recipe.of("taylor", data={"prompt": "x"}).data == [{"prompt": "x"}]
    assert Recipe.of("taylor", data="a text").data == ["a text"]


def _values(declared):
    bound = declared.bound
    if not isinstance(bound, Range):
        return st.sampled_from(bound.samples())
    within = {"min_value": bound.low, "max_value": bound.high}
    return st.integers(**within) if bound.whole else st.floats(**within) | st.sampled_from(bound.samples())


def _algorithm(cls):
    params = {name: _values(declared) for name, declared in cls.params().items()}
    if "profile" in params:
        params["profile"] |= st.sampled_from([p.build().as_data() for p in ProfilePreset])
    return st.fixed_dictionaries({}, optional=params).map(lambda values: {cls.name: values})


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "batch_size": st.integers(1, 2**20),
        "seed": st.integers(-(2**63), 2**64 - 1),
        "device": st.sampled_from(["cpu", "cuda:1"]),
        "exclude": st.lists(st.text(min_size=1)),
        "include": st.lists(st.text(min_size=1)),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(registry())).flatmap(_algorithm), SETTINGS)
def test_a_recipe_is_read_back_from_whatever_it_is_written_as(entry, common):
    try:
        recipe = Recipe.of(entry, **common)
    except BadRecipe:  # values that are fine one by one need not fit together
        return
    assert Recipe.of(str(recipe)) == Recipe.of(recipe.to_dict()) == recipe


DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(DATA)
def test_values_are_read_back_from_strings(value):
    (read,) = read_recipe(f"x(a={written(value)}, b=1)")
    assert read["x"] == {"a": value, "b": 1} and type(read["x"]["a"]) is type(value)


TEXT = st.text(st.characters(codec="utf-8"))
NAMED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(NAMED)
def test_values_are_read_back_from_yaml(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_text(write_yaml(value), encoding="utf-8", newline="")
    assert read_yaml(path) == value


def test_values_that_are_no_numbers_are_read_back():
    assert math.isnan(read_recipe("x(a=nan)")[0]["x"]["a"]) and read_recipe("x(a=-inf)")[0]["x"]["a"] == -math.inf
