"""Which checkpoint: its order, its text, and the number that files hold."""

import json

from hypothesis import given
from hypothesis import strategies as st

from proponent.store import PlannedCheckpoint, array_name
from proponent.store.layout import RUN_STEPS, stored_number
from proponent.types import CheckpointId

IDS = st.builds(CheckpointId, st.integers(0, 99), st.integers(0, RUN_STEPS - 1))


@given(st.lists(IDS))
def test_checkpoints_are_ordered_run_by_run(ids: list[CheckpointId]) -> None:
    assert sorted(ids) == sorted(ids, key=lambda one: (one.run, one.step)) == sorted(ids, key=stored_number)


@given(IDS)
def test_plans_hold_a_checkpoint_as_one_number(one: CheckpointId) -> None:
    planned = PlannedCheckpoint(id=one, learning_rate=0.1, rule="recorded", weight=0.1)
    text = planned.model_dump_json(by_alias=True)
    assert json.loads(text)["step"] == one.run * 10**9 + one.step
    read = PlannedCheckpoint.model_validate_json(text)
    assert (read, read.id, hash(read.id)) == (planned, one, hash(one))


def test_text_and_names() -> None:
    first, other = CheckpointId(0, 5), CheckpointId(1, 5)
    assert (str(first), f"{other}") == ("step 5", "step 5 of run 1")
    assert (array_name("scale", first), array_name("scale", other)) == ("scale.5", "scale.1000000005")
