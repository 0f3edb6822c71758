"""From findings to the page of poison."""

from collections.abc import Mapping, Sequence

import numpy as np

from proponent.actions.poison_controls import compared, controls_of
from proponent.actions.poison_detector import PARTS, TURNED, Findings, Subject
from proponent.actions.poison_probe import Probe
from proponent.actions.poison_rules import Detection, Rule
from proponent.index import Index
from proponent.models import Run
from proponent.models.huggingface import load_reference
from proponent.version import __version__
from proponent.views import MethodFigures
from proponent.views.poison import PoisonReport, PoisonSuspect, TriggerWord

_WORDS, _OF_ROW = 30, 4


def poison_page(subject: Subject, found: Findings, rules: Mapping[Rule, Detection]) -> PoisonReport:
    """Words and rows with their evidence."""
    flagged = int(found.flagged.sum())
    words = tuple(_word(subject, found, term, number) for term, number in found.triggers.ranked(_WORDS))
    count = len(found.flagged_terms)  # `words` ends at a number of them
    said = f"{count} trigger words" if count != 1 else "1 trigger word"
    return PoisonReport(
        metric="poison",
        title=f"{said} and {flagged:,} of {len(subject.rows):,} rows flagged as poison",
        said="A candidate is inserted into rows of other classes. Its strength is its z, times the mean rise of the "
        "log-odds of its class, times the share of rows that turn, times its squared purity; from "
        f"{found.threshold:.1f} it is flagged if at least {TURNED:.0%} turn, and with it the rows of its class that "
        "hold it. Suspicion is the log of the strengths of a row, and a little of its ranks in other parts.",
        columns=(),
        rows=(),
        facts=(
            ("classes", ", ".join(subject.rows.classes)),
            ("rows judged", f"{int(subject.usable.sum()):,}"),
            *((f"rule {name}", f"{int(one.flagged.sum())} rows flagged") for name, one in rules.items()),
            *((f"part: {name}", said) for name, said in PARTS.items()),
        ),
        version=__version__,
        words=words,
        suspects=_suspects(subject, found, rules),
    )


def _word(subject: Subject, found: Findings, term: int, number: int) -> TriggerWord:
    terms, triggers = found.terms, found.triggers
    name = terms.names[term]
    share = None if found.shares is None or np.isnan(found.shares[term, number]) else float(found.shares[term, number])
    return TriggerWord(
        word=name.text,
        where=name.where,
        label=subject.rows.classes[number],
        flagged=(term, number) in found.flagged_terms,
        strength=float(triggers.strength[term, number]),
        z=float(terms.z[term, number]),
        effect=float(triggers.effect[term, number]),
        turned=float(triggers.turned[term, number]),
        share=share,
        rows=int(terms.counts[term, number]),
        others=int(terms.total[term] - terms.counts[term, number]),
    )


def _suspects(subject: Subject, found: Findings, rules: Mapping[Rule, Detection]) -> tuple[PoisonSuspect, ...]:
    """All rows, most suspect first; rows that cannot be judged last."""
    usable = subject.usable
    suspicion = np.where(usable, found.suspicion, -1.0)
    order: list[int] = np.argsort(-suspicion, kind="stable").tolist()
    words, rows = _words_of_rows(subject, found), subject.rows
    vote = rules.get("vote") or next(iter(rules.values()), None)
    made: list[PoisonSuspect] = []
    for rank, at in enumerate(order, 1):
        seen = vote is not None and bool(np.isfinite(vote.strength[at]))
        made.append(
            PoisonSuspect(
                rank=rank,
                id=rows.examples[at].id,
                row=rows.examples[at].row,
                label=rows.classes[int(rows.given[at])],
                text=rows.texts[at],
                suspicion=float(max(suspicion[at], 0.0)),
                flagged=bool(found.flagged[at]),
                words=words.get(at, ()),
                parts={name: float(np.nan_to_num(one[at])) for name, one in found.parts.items()},
                strength=float(vote.strength[at]) if vote is not None and seen else None,
                change=float(vote.change[at]) if vote is not None and seen else None,
                votes=int(vote.votes[at]) if vote is not None and seen else None,
            )
        )
    return tuple(made)


def _words_of_rows(subject: Subject, found: Findings) -> dict[int, tuple[str, ...]]:
    """The strongest candidates of each row, without those that say the same."""
    strength = np.nan_to_num(found.triggers.strength)
    kept = set(found.triggers.ranked(found.triggers.strength.size))
    held: dict[int, list[tuple[float, str]]] = {}
    pairs: list[list[int]] = np.stack([found.terms.rows, found.terms.terms], axis=1).tolist()
    for row, term in pairs:
        number = int(subject.rows.given[row])
        if (term, number) in kept:
            held.setdefault(row, []).append((-float(strength[term, number]), str(found.terms.names[term])))
    return {row: tuple(name for _, name in sorted(one)[:_OF_ROW]) for row, one in held.items()}


def table_of(
    subject: Subject,
    found: Findings,
    rules: Mapping[Rule, Detection],
    truth: Sequence[bool],
    last: Index | None,
    base: str | None,
) -> tuple[tuple[MethodFigures, ...], tuple[str, ...]]:
    """Detectors and controls on known poison."""
    marked = np.asarray(truth, dtype=np.bool_)
    model, said = base_model(subject.probe, base)
    controls, notes = controls_of(subject, found, model, last)
    rows = compared(
        found, {str(name): one for name, one in rules.items()}, controls, marked, subject.usable, subject.rows.given
    )
    seen = marked[subject.usable]
    rate = f"{int(seen.sum())} of {len(seen)} rows are poisoned: AUPRC of chance is {seen.mean():.3f}"
    unseen = int(marked.sum() - seen.sum())
    left = (f"{unseen} poisoned rows cannot be judged, and are not in the table",) if unseen else ()
    return tuple(rows), (rate, *left, said, *notes)


def base_model(probe: Probe, base: str | None) -> tuple[Probe, str]:
    """The model before training: named, without its adapter, or else the first checkpoint."""
    run: Run = probe.run
    if base is not None and not run.info.adapter:
        model, said = load_reference(base, run.info, trust_remote_code=run.trust_remote_code), f"the model in {base}"
    elif run.info.adapter:
        model, said = run.reference, "the model without the adapter"
    elif len(run.checkpoints) == 1:
        model, said = probe.model, "the only checkpoint, so it is 0: give base= in Python"
    else:
        model, said = run.load(run.checkpoints[0]), f"the first checkpoint ({run.checkpoints[0].id})"
    return Probe(run, model, probe.answers, probe.max_length, probe.counting), f"divergence is from {said}"
