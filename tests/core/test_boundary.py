"""Errors of other libraries become sentences where data comes in; faults of our own code stay what they are."""

from pathlib import Path

import pytest
import torch
from support.each import each
from support.tiny import build

import gearshift as gs
from gearshift.core.boundary import Misfit, calling, path_of, reading, refuse_unwritable
from gearshift.core.building import within_bounds
from gearshift.core.errors import BadRecipe, BadValue, BrokenFolder, GearshiftWarning, quoted
from gearshift.core.plain import whole


@each(
    ("error", "why"),
    [
        (KeyError("x"), "KeyError 'x'"),
        (RecursionError(), "nested too deeply"),
        (MemoryError(), "does not fit into memory"),
        (FileNotFoundError(2, "no", "/a/b"), "/a/b is not there"),
        (ValueError("a\nb" * 500), "a ba b"),
        (Misfit("it is odd"), "it is odd"),
    ],
)
def test_foreign_errors_become_one_bounded_sentence_with_the_name(error, why):
    with pytest.raises(BrokenFolder, match=why) as caught, reading("/some/file", "a plan"):
        raise error
    text = str(caught.value)
    assert text.startswith("/some/file cannot be read as a plan: ") and "\n" not in text and len(text) < 400
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [NameError("a bug"), GearshiftWarning("w"), KeyboardInterrupt(), BrokenFolder("named")]
)
def test_what_is_no_fault_of_the_file_passes(error):
    with pytest.raises(type(error)) as caught, reading("/some/file", "a plan"):
        raise error
    assert caught.value is error


def test_a_foreign_model_s_error_is_told_and_our_own_is_not_hidden():
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(BadRecipe, match="Linear cannot be called with the data: "), calling(layer, "the data"):
        layer(torch.ones(3))
    with pytest.raises(Misfit), calling(layer, "the data"):
        whole()("x", "raised inside of gearshift")


@each("given", [None, 5, "", b"/tmp", [], "a\0b", "\ud800"])
def test_what_is_no_path_is_refused(given):
    with pytest.raises(BadValue, match="A folder must be a path"):
        path_of(given, "A folder")


def test_places_that_cannot_be_written_are_known_before(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file" / "x", tmp_path / ("a" * 300)):
        with pytest.raises(BrokenFolder, match="cannot be written"):
            refuse_unwritable(place)
    with pytest.raises(BrokenFolder, match=r"/proc/x cannot be written: nothing can be made in /proc "):
        refuse_unwritable(Path("/proc/x"))
    refuse_unwritable(tmp_path / "new" / "folder")
    refuse_unwritable(tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_values_are_quoted_within_a_line():
    for value in (
        "x" * 10**6,
        list(range(10**6)),
        10**5000,
        {1: {2: {3: {4: {}}}}},
        torch.ones(50, 50),
        "a\nb\0\u202e",
    ):
        assert len(quoted(value)) <= 62 and quoted(value).isprintable()


def test_a_configuration_makes_no_more_than_its_weights_fill(tmp_path):
    (tmp_path / "weights").write_bytes(b"x" * 1000)
    with within_bounds([tmp_path / "weights"]):
        torch.nn.Sequential(*(torch.nn.Linear(2, 2, device="meta") for _ in range(100)))
    with pytest.raises(Misfit, match="more modules"), within_bounds([]):
        torch.nn.Sequential(*(torch.nn.Linear(2, 2, device="meta") for _ in range(3000)))
    with pytest.raises(Misfit, match="more numbers"), within_bounds([tmp_path / "weights"]):
        torch.nn.Linear(100_000, 100_000, device="meta")
    torch.nn.Linear(100_000, 100_000, device="meta")


def test_what_is_on_a_model_already_is_said_as_such():
    tiny = build("dit")
    gs.optimize(tiny.pipe, "fora")
    copy = type(tiny.pipe)(**tiny.pipe.components)
    for model, holder in ((tiny.pipe, "this model"), (copy, "the pipeline that shares its parts with this one")):
        for recipe in ("fora", "taylor"):
            with pytest.raises(BadRecipe, match=rf"fora is already applied to {holder}; gearshift\.restore removes it"):
                gs.optimize(model, recipe)


@each(
    ("call", "words"),
    [
        (lambda pipe: gs.plan(pipe, speed=1.5), "A plan needs `data`"),
        (lambda pipe: gs.plan(pipe, speed=1.5, metric=5), "must be a function of two latents"),
        (lambda pipe: gs.plan(pipe, speed=10**400), "'speed' of a plan must be 1 to"),
        (lambda pipe: gs.plan(pipe, speed=1.5, data=5), "data must be a list"),
        (lambda pipe: gs.plan(pipe, speed=1.5, data=[{"nope": 1}]), "DiTPipeline cannot be called with"),
        (lambda pipe: gs.optimize(pipe, "fora", device="nope"), "device must be one of this machine's"),
        (lambda pipe: gs.optimize(pipe, "fora", device="meta"), "device must be one of this machine's"),
        (lambda pipe: gs.optimize(pipe, "fora", verify="x"), "verify must be True or False"),
        (lambda pipe: gs.optimize(pipe, "taylor_auto", data=[{"nope": 1}]), "DiTPipeline cannot be called with"),
        (lambda pipe: gs.warm_up(pipe, data=5), "data must be a list"),
        (lambda pipe: gs.sampling("x").__enter__(), "coordinates of a run are a list of finite numbers"),
        (lambda pipe: gs.sampling(5).__enter__(), "coordinates of a run are a list of finite numbers"),
    ],
)
def test_bad_arguments_get_a_sentence_and_change_nothing(call, words):
    pipe = build("dit").pipe
    with pytest.raises((BadRecipe, BadValue), match=words):
        call(pipe)
    assert not gs.status(pipe).applied and "forward" not in vars(pipe.transformer)
