import pytest

from gearshift import Recipe
from gearshift.core.errors import BadRecipe

WAYS = [
    ["qkv_diffusers", {"taylor": {"order": 1}}],
    "qkv_diffusers, taylor(order=1)",
    "taylor(order=1) + qkv_diffusers",
    {"taylor": {"order": 1}, "qkv_diffusers": None},
    {"algorithms": ["qkv_diffusers", {"taylor": {"order": 1}}]},
    [{"taylor": {"order": 1}, "qkv_diffusers": True, "half": False}],
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_to_write_a_recipe_gives_the_same_one(way):
    assert str(Recipe.of(way)) == "qkv_diffusers, taylor(order=1)"


def test_keywords_yaml_file_and_round_trips(tmp_path):
    recipe = Recipe.of(taylor={"order": 1}, qkv_diffusers=True, batch_size=4, seed=7)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert (
        Recipe.of(tmp_path / "r.yaml") == Recipe.of(str(tmp_path / "r.yaml")) == Recipe.of(recipe.to_dict()) == recipe
    )
    assert (recipe.batch_size, recipe.seed) == (4, 7)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("tailor", "did you mean 'taylor'?"),
        ("taylor(order=9)", "must be one of 1, 2, 3, 4"),
        ("taylor, periodic", "would both decide which steps are computed"),
        ("taylor, taylor", "named twice"),
        ("taylor(order", "cannot be read as a recipe"),
        ("taylor(3)", "name=value"),
        ("no-such.yaml", "cannot be read"),
        (7, "Got 7 instead"),
        ([7], "Got 7 instead"),
        ({"taylor": 3}, "takes a dict of parameters"),
        ({"batch_size": 0, "taylor": None}, "batch_size must be an int of 1 or more"),
    ],
)
def test_bad_recipes_are_told_in_a_sentence(bad, words):
    with pytest.raises(BadRecipe) as caught:
        Recipe.of(bad)
    assert words in str(caught.value)


def test_all_faults_come_at_once():
    with pytest.raises(BadRecipe) as caught:
        Recipe.of("tailor, fora(interval=99), half(x=1)")
    assert len(caught.value.problems) == 3


def test_broken_yaml_names_the_file(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [")
    with pytest.raises(BadRecipe, match=r"broken\.yaml is not YAML"):
        Recipe.of(path)
