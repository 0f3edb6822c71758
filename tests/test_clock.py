import time

import pytest

from proponent.index.clock import Clock


def test_a_stage_within_a_stage_counts_for_itself_alone(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock()
    with clock("gradients"):
        now[0] += 1.0
        with clock("load"):
            now[0] += 2.0
            with clock("tables"):
                now[0] += 4.0
        now[0] += 8.0
        with clock("load"):
            now[0] += 16.0
    with clock("load"):
        now[0] += 32.0
    assert clock.seconds == {"gradients": 9.0, "load": 50.0, "tables": 4.0}


def test_a_stage_that_fails_counts_all_the_same(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock()

    def fail() -> None:
        with clock("gradients"), clock("load"):
            now[0] += 3.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with clock("gradients"):
        now[0] += 1.0
    assert clock.seconds == {"gradients": 1.0, "load": 3.0}
