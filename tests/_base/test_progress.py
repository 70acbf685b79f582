"""Progress and stop: what callers hear, and when a computation ends."""

import io

import pytest

from saekit._base.progress import ask, progress_of, tracked
from saekit.errors import SaekitError, Stopped


def test_a_function_is_given_what_is_done_and_of_how_many():
    heard = []
    with progress_of(lambda *about: heard.append(about), 10, "text") as step:
        for size in (4, 4, 2):
            step(size, fvu="0.3")
    assert heard == [(4, 10), (8, 10), (10, 10)]
    assert step.done == 10


def test_work_that_goes_on_counts_from_where_it_was():
    heard = []
    with progress_of(lambda *about: heard.append(about), 10, "text", start=7) as step:
        step(3)
    assert heard == [(10, 10)]


def test_a_bar_is_drawn_with_title_and_figures_and_goes_away(monkeypatch, capsys):
    import tqdm.auto
    import tqdm.std

    screen = io.StringIO()

    class Bar(tqdm.std.tqdm):
        def __init__(self, **options):
            assert options["leave"] is False
            super().__init__(**options, file=screen, mininterval=0, ascii=True)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    with progress_of(True, 2_000_000, "B", title="Reading") as step:
        step(1_000_000, loss="0.25")
    drawn = screen.getvalue()
    assert "Reading" in drawn
    assert "1.00M/2.00M" in drawn
    assert "loss=0.25" in drawn
    assert drawn.endswith("\r")  # erased
    with progress_of(False, 3, "text") as step:
        step(3)
    assert step.done == 3
    assert screen.getvalue() == drawn
    assert capsys.readouterr() == ("", "")


def test_stop_is_heard_between_parts_and_before_the_first():
    asked, done = iter([False, False, True]), []
    with pytest.raises(Stopped) as stopped:
        for part in tracked("abcdef", False, "part", stop=lambda: next(asked)):
            done.append(part)
    assert done == ["a", "b"]
    assert isinstance(stopped.value, SaekitError)
    with pytest.raises(Stopped), progress_of(True, 5, "part", stop=lambda: True):
        done.append("never")
    assert done == ["a", "b"]
    with pytest.raises(Stopped):
        ask(lambda: True)
    ask(lambda: False)
    ask(None)


def test_work_that_is_complete_is_not_stopped():
    wanted = iter([False, False, True])
    assert list(tracked([1, 2], False, "part", stop=lambda: next(wanted))) == [1, 2]


def test_items_are_counted_by_their_size():
    heard = []
    items = tracked(["ab", "c", "def"], lambda *about: heard.append(about), "character", total=6, size=len)
    assert list(items) == ["ab", "c", "def"]
    assert heard == [(2, 6), (3, 6), (6, 6)]
    list(tracked(iter("ab"), lambda *about: heard.append(about), "part"))
    assert heard[3:] == [(1, None), (2, None)]


def test_what_the_callers_function_raises_ends_the_computation():
    def refuse(done, total):
        raise KeyError(done)

    with pytest.raises(KeyError), progress_of(refuse, 3, "part") as step:
        step()
