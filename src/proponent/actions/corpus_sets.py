"""Corpora and test sets as a model reads them: rows drawn, tokenized, and refused where they cannot be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from proponent.actions.text_overlap import shared_rows
from proponent.dynamics.untrac import TextSet
from proponent.errors import InputError
from proponent.evaluate.chat import as_questions, layout_of
from proponent.evaluate.left_out import LeftOutSettings, SetTrainings
from proponent.models import Run
from proponent.models.counting import NOTHING, RowRules, Stated, rules_of
from proponent.models.encoding import Encoder
from proponent.types import Example


@dataclass(frozen=True)
class Sets:
    """Corpora and tests as texts and as the model reads them."""

    rows: Mapping[str, Sequence[Example]]
    asked: Mapping[str, Sequence[Example]]
    corpora: tuple[TextSet, ...]
    tests: tuple[TextSet, ...]
    encoder: Encoder
    rules: RowRules
    notes: tuple[str, ...]

    @classmethod
    def read(
        cls,
        run: Run,
        corpora: Mapping[str, Sequence[Example]],
        tests: Mapping[str, Sequence[Example]],
        most: int | None,
        max_length: int | None,
        stated: Stated = NOTHING,
    ) -> "Sets":
        """Draw rows, tokenize, and refuse sets that cannot be compared."""
        _refuse_sets(run, corpora, tests)
        first = next(iter(corpora.values()))
        rules = rules_of(run, layout_of(first), max_length, stated)
        encoder = run.encoder(rules.max_length, counting=rules.counting)
        drawn = {name: _drawn(name, rows, most) for name, rows in corpora.items()}
        questions = {name: _named(name, rows) for name, rows in tests.items()}
        if rules.counting is not None:
            questions = {name: as_questions(rows, list(first)) for name, rows in questions.items()}
        notes = [*rules.notes, *_cut_notes(corpora, drawn)]
        kept = {name: _read_set(run, encoder, name, rows, asked=False) for name, rows in drawn.items()}
        asked = {name: _read_set(run, encoder, name, rows, asked=True) for name, rows in questions.items()}
        for one in (kept, asked):
            notes += [
                f"{lost} rows of {name} have no token that counts: left out"
                for name, (_, _, lost) in one.items()
                if lost
            ]
        _refuse_foreign(run, [texts for texts, _, _ in kept.values()], [texts for texts, _, _ in asked.values()])
        notes += _overlap(drawn, questions)
        return cls(
            {name: rows for name, (_, rows, _) in kept.items()},
            {name: rows for name, (_, rows, _) in asked.items()},
            tuple(texts for texts, _, _ in kept.values()),
            tuple(texts for texts, _, _ in asked.values()),
            encoder,
            rules,
            tuple(notes),
        )

    def trainings(self, run: Run, settings: LeftOutSettings) -> SetTrainings:
        """How models are trained again on parts of these corpora."""
        counts = [np.asarray([one.n_counted for one in texts.encoded], dtype=np.float64) for texts in self.tests]
        weights = [np.ones_like(own) if run.task.labels else own for own in counts]
        rows = [one for own in self.rows.values() for one in own]
        return SetTrainings(run, rows, list(self.asked.values()), weights, self.rules, settings)


def _refuse_sets(run: Run, corpora: Mapping[str, Sequence[Example]], tests: Mapping[str, Sequence[Example]]) -> None:
    """Refuse heads without a loss per token or class, and empty sets."""
    if run.task.predicts == "pairs" or run.task.answers or run.task.masks:
        raise InputError(
            f"the model in {run.path} is a {run.task.kind} model: only causal language models, encoder-decoders and "
            "classifiers have losses of whole sets"
        )
    if len(corpora) < 2:
        raise InputError("give at least two corpora: one alone is compared with nothing")
    if not tests:
        raise InputError("give at least one test set (--tests)")
    for name, rows in (*corpora.items(), *tests.items()):
        if not len(rows):
            raise InputError(f"{name} has no rows: leave it out")


def _drawn(name: str, rows: Sequence[Example], most: int | None) -> list[Example]:
    """The rows of a corpus, or a sample of them, with ids that no other corpus has."""
    if most is not None and len(rows) > most:
        chosen: list[int] = np.sort(np.random.default_rng(0).permutation(len(rows))[:most]).tolist()
        rows = [rows[at] for at in chosen]
    return _named(name, rows)


def _named(name: str, rows: Sequence[Example]) -> list[Example]:
    return [_renamed(one, f"{name}/{one.id}") for one in rows]


def _renamed(one: Example, name: str) -> Example:
    """The same example under another id."""
    return Example(name, one.row, label=one.label, content=one.content, span=one.span, weight=one.weight)


def _cut_notes(corpora: Mapping[str, Sequence[Example]], drawn: Mapping[str, Sequence[Example]]) -> list[str]:
    lines = [
        f"{name}: {len(own):,} of {len(corpora[name]):,} rows"
        for name, own in drawn.items()
        if len(own) < len(corpora[name])
    ]
    return [f"rows were drawn at random ({'; '.join(lines)})"] if lines else []


def _read_set(
    run: Run, encoder: Encoder, name: str, rows: list[Example], *, asked: bool
) -> tuple[TextSet, list[Example], int]:
    """Tokenize a set; rows of a language model without a token that counts are left out."""
    encoded = encoder.encode(rows, asked=asked)
    if run.task.labels:
        missing = next((one for one in rows if one.label is None), None)
        if missing is not None:
            raise InputError(f"a row of {name} has no label ({missing.id}): a classifier has no loss on it")
        return TextSet(name, encoded, [run.label_number(cast("Any", one.label)) for one in rows]), rows, 0
    kept = [at for at, one in enumerate(encoded) if one.n_counted]
    if not kept:
        raise InputError(f"no row of {name} has a token that counts: give longer texts, or read more with --max-length")
    return (
        TextSet(name, [encoded[at] for at in kept], [-1] * len(kept)),
        [rows[at] for at in kept],
        len(rows) - len(kept),
    )


def _tokens(texts: TextSet) -> set[int]:
    found = {int(token) for one in texts.encoded for token in one.ids}
    return found | {int(token) for one in texts.encoded if one.targets is not None for token in one.targets}


def _refuse_foreign(run: Run, corpora: Sequence[TextSet], tests: Sequence[TextSet]) -> None:
    """Refuse a corpus that shares no token with a test set."""
    special = {int(one) for one in run.tokenizer.all_special_ids}
    asked = [(test, _tokens(test) - special) for test in tests]
    for corpus in corpora:
        own = _tokens(corpus)
        for test, tokens in asked:
            if not own & tokens:
                raise InputError(
                    f"{corpus.name} and {test.name} have no token in common: one of them is not what this model reads, "
                    "or in another language; leave it out"
                )


def _overlap(corpora: Mapping[str, Sequence[Example]], tests: Mapping[str, Sequence[Example]]) -> list[str]:
    known = [one for rows in corpora.values() for one in rows]
    counts = {name: shared_rows(rows, known) for name, rows in tests.items()}
    return [
        f"{count} of {len(tests[name])} rows of {name} also stand in a corpus"
        for name, count in counts.items()
        if count
    ]
