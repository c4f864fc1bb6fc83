"""Files and folders are replaced in one step: broken off anywhere, the old one or the new one is there whole."""

import os
import signal
import threading
from pathlib import Path

import pytest
from support.each import each

from gearshift.core import files, scratch
from gearshift.core.errors import BadValue, BrokenFolder, GearshiftError
from gearshift.core.files import put_back, replacing_file, replacing_folder, write_atomically


def save(target, word):
    """A folder with two files that belong together."""
    with replacing_folder(target, lambda old: {"a", "b"}) as new:
        (new / "a").write_text(word)
        (new / "b").write_text(word)


def word_in(target):
    first, second = (target / "a").read_text(), (target / "b").read_text()
    assert first == second
    return first


@pytest.fixture(params=["one step", "two steps"])
def target(request, tmp_path, monkeypatch):
    """A saved folder with a file of the user's own, on a system with and without an exchange of names."""
    if request.param == "two steps":
        monkeypatch.setattr(scratch, "_exchanged", lambda one, other: False)
    save(tmp_path / "model", "old")
    (tmp_path / "model" / "samples").mkdir()
    (tmp_path / "model" / "samples" / "mine.txt").write_text("mine")
    return tmp_path / "model"


def dying_at(number):
    """Ends the process, as a kill would, at the n-th call that touches names or the disk."""
    left = [number]

    def dying(function):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    places = [(Path, "replace"), (scratch, "_exchanged"), *((os, n) for n in ("fsync", "link", "unlink", "rmdir"))]
    for owner, name in places:
        setattr(owner, name, dying(getattr(owner, name)))


def killed(target, number):
    """Whether a child that saves was killed at that call."""
    child = os.fork()
    if child == 0:
        dying_at(number)
        save(target, "new")
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_at_any_moment_leaves_the_old_or_the_new(target):
    number, seen = 1, set()
    while killed(target, number):
        put_back(target)
        seen.add(word_in(target))
        assert (target / "samples" / "mine.txt").read_text() == "mine"
        save(target, "old")
        assert os.listdir(target.parent) == ["model"]
        number += 1
    assert number > 10 and seen == {"old", "new"}


def test_an_error_in_the_block_changes_nothing_and_leaves_no_scratch(target):
    with pytest.raises(ZeroDivisionError), replacing_folder(target, lambda old: {"a", "b"}) as new:
        (new / "a").write_text("half")
        raise ZeroDivisionError
    assert word_in(target) == "old" and os.listdir(target.parent) == ["model"]


def test_a_file_of_somebody_else_is_never_overwritten(target):
    (target / "c").write_text("mine")
    refused = pytest.raises(BrokenFolder, match="c in it is not gearshift's")
    with refused, replacing_folder(target, lambda old: {"a", "b"}) as new:
        (new / "c").write_text("ours")
    assert (target / "c").read_text() == "mine" and word_in(target) == "old"


def test_two_writers_come_one_after_the_other(target):
    begun = threading.Barrier(2)

    def write(word):
        for _ in range(5):
            with replacing_folder(target, lambda old: {"a", "b"}) as new:
                begun.wait(10)
                (new / "a").write_text(word)
                (new / "b").write_text(word)

    writers = [threading.Thread(target=write, args=(word,)) for word in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert word_in(target) in ("one", "two") and os.listdir(target.parent) == ["model"]


def test_what_a_living_writer_has_begun_is_left_alone(target):
    with replacing_folder(target, lambda old: {"a", "b"}) as outer:
        save(target, "inner")
        (outer / "a").write_text("outer")
        (outer / "b").write_text("outer")
    assert word_in(target) == "outer"


def test_a_link_stays_a_link(target, tmp_path):
    (tmp_path / "link").symlink_to(target)
    save(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and word_in(target) == "new"


def test_the_working_folder_can_be_saved_into(target, monkeypatch):
    monkeypatch.chdir(target)
    save(".", "new")
    assert Path("a").read_text() == "new"


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path):
    path = tmp_path / "plan.json"
    write_atomically(path, "old")
    path.chmod(0o600)
    write_atomically(path, "new")
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ZeroDivisionError), replacing_file(path) as new:
        assert new.suffix == ".json" and new.parent == tmp_path
        new.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["plan.json"]


def test_scratch_files_of_the_dead_go_with_the_next_write(tmp_path):
    for name in (".plan.json.0123abcd.new.json", ".plan.json.0123abcd.new", ".plan.json.keep", ".other.0123abcd.new"):
        (tmp_path / name).write_text("left")
    write_atomically(tmp_path / "plan.json", "new")
    assert sorted(os.listdir(tmp_path)) == [".other.0123abcd.new", ".plan.json.keep", "plan.json"]


def fail(code):
    def failing(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return failing


REFUSING = {"flushing": (os, "fsync"), "a folder": (Path, "mkdir"), "its place": (files, "exchange")}


@pytest.mark.parametrize("code", [28, 30])  # full, read-only
@pytest.mark.parametrize("what", REFUSING)
def test_what_the_disk_refuses_is_one_sentence(target, monkeypatch, what, code):
    monkeypatch.setattr(*REFUSING[what], fail(code))
    with pytest.raises(GearshiftError, match=f"(?i)model cannot be written: {os.strerror(code)}"):
        save(target, "new")
    monkeypatch.undo()
    assert word_in(target) == "old" and os.listdir(target.parent) == ["model"]


def test_a_file_that_the_disk_refuses_is_one_sentence(tmp_path, monkeypatch):
    write_atomically(tmp_path / "plan.json", "old")
    monkeypatch.setattr(Path, "touch", fail(28))
    with pytest.raises(BrokenFolder, match=r"plan\.json cannot be written: no space left"):
        write_atomically(tmp_path / "plan.json", "new")
    assert (tmp_path / "plan.json").read_text() == "old" and os.listdir(tmp_path) == ["plan.json"]


def test_a_missing_parent_that_was_made_goes_again(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail(28))
    with pytest.raises(BrokenFolder):
        save(tmp_path / "x" / "y" / "model", "new")
    assert os.listdir(tmp_path) == []


@each("path", [None, "", "a\0b", 3, b"bytes"])
def test_what_is_no_path_is_told(path):
    with pytest.raises(BadValue, match="must be a path"):
        write_atomically(path, "x")


def test_long_names_and_folders_in_a_file_s_place_are_told(tmp_path):
    write_atomically(tmp_path / ("a" * 255), "x")
    with pytest.raises(BrokenFolder, match="too long"):
        write_atomically(tmp_path / ("a" * 300), "x")
    with pytest.raises(BrokenFolder, match="a directory"):
        write_atomically(tmp_path, "x")


def test_a_writer_may_save_into_what_it_has_begun(tmp_path):
    with replacing_folder(tmp_path / "outer", lambda _: ()) as begun:
        save(begun / "inner", "new")
    assert word_in(tmp_path / "outer" / "inner") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["outer"] and not scratch.BEGUN
