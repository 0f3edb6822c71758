"""Progress on stderr, with a clock and a stream of the test."""

import io
from collections.abc import Iterator

import pytest

from proponent.progress import track


class Clock:
    """Seconds that move only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def work(seconds: float, count: int, *, stop_at: int | None = None, weight: int | None = None) -> str:
    clock, stream = Clock(), io.StringIO()
    total = count * (weight or 1)
    weigh = None if weight is None else lambda _: weight
    for item in track(range(count), total=total, label="index", weight=weigh, stream=stream, clock=clock):
        clock.now += seconds
        if item == stop_at:
            break
    return stream.getvalue()


def test_items_pass_through_in_order() -> None:
    assert list(track("abc", total=3, label="x", stream=io.StringIO())) == ["a", "b", "c"]


def test_short_work_says_nothing() -> None:
    assert work(0.1, 10) == ""


def test_long_work_says_one_line_at_the_end() -> None:
    assert work(0.5, 8) == "index: 8 examples in 4 s (2/s)\n"


def test_a_line_at_most_every_ten_seconds() -> None:
    lines = work(1.0, 25, weight=4).splitlines()
    assert lines == [
        "index: 40 of 100 examples (40%), 4/s, 15 s left",
        "index: 80 of 100 examples (80%), 4/s, 5 s left",
        "index: 100 examples in 25 s (4/s)",
    ]


def test_stopped_work_says_where() -> None:
    assert work(1.0, 10, stop_at=4) == "index: stopped at 4 of 10 examples after 5 s\n"


def test_an_error_in_the_work_passes_and_says_where() -> None:
    clock, stream = Clock(), io.StringIO()

    def items() -> Iterator[int]:
        yield 1
        clock.now += 3700
        raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        list(track(items(), total=9, label="index", unit="rows", stream=stream, clock=clock))
    assert stream.getvalue() == "index: stopped at 1 of 9 rows after 1 h 01 min\n"


def test_quiet_says_nothing() -> None:
    clock, stream = Clock(), Terminal()
    for _ in track(range(3), total=3, label="x", quiet=True, stream=stream, clock=clock):
        clock.now += 60
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    clock, stream = Clock(), Terminal()
    for _ in track(range(4), total=400, label="[red]index", weight=lambda _: 100, stream=stream, clock=clock):
        clock.now += 2
    last = stream.getvalue().rsplit("\r", 1)[-1]
    assert "[red]index" in last  # a label is data, not markup
    assert "100%" in last
    assert "400/400 examples" in last
    assert "50/s" in last


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    clock, stream = Clock(), Terminal()
    for _ in track(range(3), total=3, label="index", stream=stream, clock=clock):
        clock.now += 1
    assert stream.getvalue() == "index: 3 examples in 3 s (1/s)\n"


def test_nothing_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    for _ in track(range(3), total=3, label="index", clock=clock):
        clock.now += 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "index: 3 examples in 3 s (1/s)\n"


def test_no_items_and_a_wrong_total_do_no_harm() -> None:
    assert list(track([], total=0, label="x", stream=io.StringIO())) == []
    assert list(track(range(3), total=0, label="x", stream=io.StringIO())) == [0, 1, 2]
