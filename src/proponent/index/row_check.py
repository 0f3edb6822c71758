"""Check the rows of a language model against what its training fed: same tokens, same counted tokens."""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np

from proponent.data import Examples
from proponent.errors import MismatchError
from proponent.models import Encoded, Encoder, Run
from proponent.models.batch_record import BatchRecord, read_batch_record, row_hash
from proponent.models.counting import fine_tuning_note, homes, logged_tokens
from proponent.models.judged_rows import JudgedBatches, refuse_other_order
from proponent.models.trainer_notes import JUDGED
from proponent.types import Example, Text

CHUNK = 256

UNORDERED = (
    "the Recorder noted no rows of this training (a stream, or too many), so their order is taken on trust: the loss "
    "of a judged answer (KTO) depends on its neighbours, and is wrong for rows in another order than in the training"
)


def check_rows(
    run: Run, examples: Examples, encoder: Encoder, encoded: Sequence[Encoded] | None
) -> tuple[BatchRecord | None, list[str]]:
    """Refuse rows that a recorded training did not feed; return its record and notes."""
    if not run.task.chats:
        return None, []
    tell_batches(run, encoder, examples, examples.name)
    records = [read_batch_record(home) for home in homes(run)]
    known = [one for one in records if one is not None]
    if len(known) < len(records) or not encoder.counting.trl:
        notes = _logged(run, examples, encoder, encoded) if encoder.counting.trl else []
        return None, [*notes, UNORDERED] if run.task.sharing else notes
    held = [one.known for one in known]
    for example, one in _encoded(examples, encoder, encoded):
        sides = [side for side in one.sides if side.counted.any()]
        hashes = {row_hash(side.ids, np.where(side.counted, side.ids, -100)) for side in sides}
        if not all(hashes <= some for some in held):
            raise MismatchError(_difference(run, examples, encoder, example, len(one.ids)))
    if run.task.sharing:
        _ = run.judged.batches  # refuses rows in another order
    return known[0], [UNORDERED] if run.task.sharing and not all(len(one.rows) for one in known) else []


def judged_batches(run: Run, encoder: Encoder, examples: Iterable[Example], name: str) -> JudgedBatches:
    """The batches of a KTO training; rows in another order than the Recorder noted are refused."""
    rows = [(example, encoder.judged_parts(example)) for example in examples]
    for home in homes(run):
        record = read_batch_record(home)
        if record is not None and len(record.rows):
            refuse_other_order(rows, encoder.max_length, record.rows.tolist(), name, home)
    return JudgedBatches.of(((example.row, parts) for example, parts in rows), run.task.sharing, encoder.max_length)


def tell_batches(run: Run, encoder: Encoder, examples: Iterable[Example], name: str, *, kept: bool = True) -> None:
    """Let a run of KTO find the rows of a batch, which share an estimate; an index may have lost (not `kept`) some."""

    def make() -> JudgedBatches:
        try:
            return judged_batches(run, encoder, examples, name)
        except MismatchError as error:
            if kept:
                raise
            raise MismatchError(
                f"{name} no longer holds all rows of the training in their order (deleted ones were merged away), and "
                "the loss of a judged answer (KTO) depends on its neighbours: words cannot be computed again; build "
                "the index again, or delete without merge"
            ) from error

    if run.task.sharing:
        run.judged.tell(make)


def _encoded(
    examples: Examples, encoder: Encoder, encoded: Sequence[Encoded] | None
) -> Iterator[tuple[Example, Encoded]]:
    if encoded is not None:
        yield from zip(examples, encoded, strict=True)
        return
    for start in range(0, len(examples), CHUNK):
        some = list(examples[start : start + CHUNK])
        yield from zip(some, encoder.encode(some), strict=True)


def _difference(run: Run, examples: Examples, encoder: Encoder, example: Example, length: int) -> str:
    """Say how a row differs from the training, as far as the Recorder's note tells."""
    home, counting = homes(run)[0], encoder.counting
    note = fine_tuning_note(home, run.task.trainer) or {}
    own = cast("str | None", getattr(run.tokenizer, "chat_template", None))
    limit = cast("int | None", note.get("max_length"))
    cut = length >= min(encoder.max_length, length if limit is None else limit)
    reasons: list[tuple[str, object, object, str]] = [
        ("max_length", limit if cut else encoder.max_length, encoder.max_length, "--max-length"),
        ("chat template", note.get("template"), counting.template or own, "--chat-template"),
        ("assistant-only loss", bool(note.get("assistant_only")), counting.assistant_only, "--assistant-only"),
        ("completion-only loss", note.get("completion_only") is not False, counting.completion_only, "--whole"),
        ("packing", note.get("packing", ""), counting.packing, "the record"),
    ]
    reasons = reasons[:2] if run.task.trainer in JUDGED else reasons
    unlike = [one for one in reasons if note and one[1] != one[2]]
    where = f"{examples.name}, row {example.row} (id {example.id})"
    if not unlike:
        return (
            f"{where} is not among the rows that the training in {home} fed, by the Recorder: its text, its tokenizer "
            "or the way its tokens count differs; index the data of the training"
        )
    name, theirs, ours, option = unlike[0]
    return (
        f"{where} has other tokens than in the training in {home}: its {name} was {_short(theirs)} and is "
        f"{_short(ours)} here: leave {option} out"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _logged(run: Run, examples: Examples, encoder: Encoder, encoded: Sequence[Encoded] | None) -> list[str]:
    """A note if the number of tokens is not what the training logged for an epoch."""
    wanted = logged_tokens(run)
    if wanted is None:
        return []
    every = (one for _, one in _encoded(examples, encoder, encoded))
    found = sum(one.length for one in every if one.n_counted)
    if found == round(wanted):
        return []
    return [
        f"the training logged {wanted:,.0f} tokens for each epoch, and these rows have {found:,}: other rows, another "
        "max_length, or another chat template than in training"
    ]


def not_trained(encoder: Encoder, example: Example) -> bool:
    """Whether a row of chat data, or of a prompt and its target, was dropped as none of its tokens counts."""
    if not encoder.task.chats or (isinstance(example.content, Text) and not encoder.counting.trl):
        return False
    (one,) = encoder.encode([example])
    return not one.n_counted
