"""Ask an index: which training examples, and which words in them, helped or hurt an output."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from whence import words as splitter
from whence.errors import InputError, LabelError, MismatchError, RunError
from whence.forms import Gradient
from whence.index.asked import AnyLabel, Asked, Labels, check_queries, named, plain_label, queries_of
from whence.index.beside import Beside
from whence.index.passes import Pass
from whence.index.shares import word_pairs
from whence.model import Encoded, Run
from whence.search import Search
from whence.store import Store
from whence.types import Example
from whence.version import __version__
from whence.views import Answer, Checkpoint, Hit

KEPT_BYTES = 4 * 2**30
"""Most memory that loaded checkpoints may take between two questions."""

BLOCK = 16
"""Queries that are scored together."""


class Index:
    """A finished index: open it, ask it.

    Args:
        path: the index.
        run: folder of the run, when it has moved since the index was built.
        trust_remote_code: allow code that comes with the run's model (an index never allows it by itself).

    Raises:
        InputError: there is no finished index.
        DamagedError: it is not what was written.
    """

    def __init__(self, path: str | Path, run: str | Path | None = None, *, trust_remote_code: bool = False) -> None:
        self.store = Store(Path(path))
        self._run_folder = Path(run) if run is not None else Path(self.store.plan.run)
        self._search, self._beside = Search(self.store), Beside(self.store)
        self._trust_remote_code = trust_remote_code
        self._passes: dict[int, Pass] = {}
        self._held: dict[int, frozenset[int]] = {}
        if self.store.plan.word_rules != splitter.RULES:
            raise MismatchError(
                f"{path} was built with word rules {self.store.plan.word_rules}, this Python has {splitter.RULES} "
                "(another Unicode version): "
                "ask it with the Python that built it, or build it again"
            )

    def __len__(self) -> int:
        return self.store.plan.n

    def __repr__(self) -> str:
        plan = self.store.plan
        return f"Index({plan.recipe.name}: {plan.n} examples, {len(plan.checkpoints)} checkpoints of {plan.run})"

    @property
    def summary(self) -> dict[str, object]:
        """What the index holds and what it cost, as plain data."""
        plan, manifest = self.store.plan, self.store.manifest
        return {
            "index": str(self.store.folder),
            "method": plan.recipe.name,
            "embedding_path": plan.embedding_path,
            "examples": plan.n,
            "checkpoints": [
                {"step": one.step, "learning_rate": one.learning_rate, "rule": one.rule} for one in plan.checkpoints
            ],
            "skipped": [one.model_dump() for one in manifest.skipped],
            "notes": list(manifest.notes),
            "seconds": dict(manifest.seconds),
            "merkle_root": manifest.merkle_root,
        }

    @property
    def method(self) -> str:
        """Name of the recipe."""
        return self.store.plan.recipe.name

    @cached_property
    def run(self) -> Run:
        """The training run, checked against what the index was built from.

        Raises:
            InputError: it needs its model's own code, and the user has not allowed that.
            RunError: it is not there any more.
            MismatchError: weights or tokenizer changed.
        """
        plan = self.store.plan
        if plan.trust_remote_code and not self._trust_remote_code:
            raise InputError(
                f"the run of {self.store.folder} needs code that comes with its model: if you trust it, allow it with "
                "--trust-remote-code (trust_remote_code=True)"
            )
        if not self._run_folder.exists():
            raise RunError(
                f"no run at {self._run_folder}, from which {self.store.folder} was built: "
                "if it has moved, say where it is with --run (run=)"
            )
        run = Run.from_pretrained(
            self._run_folder, tokenizer=self.store.plan.tokenizer, trust_remote_code=self._trust_remote_code
        )
        for name, value in plan.fingerprints.items():
            found = value if name.split()[0] in {"data", "moments"} else run.fingerprints.get(name, "missing")
            if found != value:
                raise MismatchError(
                    f"the run in {self._run_folder} is not the one that {self.store.folder} was built from: "
                    f"its {name} is {found[:12]}, not {value[:12]}: "
                    "point to the right run with --run, or build the index again"
                )
        return run

    def explain(
        self,
        text: str,
        *,
        label: AnyLabel | None = None,
        against: AnyLabel | None = None,
        text_pair: str | None = None,
        target: str | None = None,
        k: int = 10,
        baselines: bool = True,
    ) -> Answer:
        """Say whence an output comes.

        Args:
            text: the text, the first text of a pair, or the prompt of a language model.
            label: the class to explain; None explains the predicted one.
            against: a second class; the answer then explains why `label` rather than that.
            text_pair: the second text of a pair.
            target: the part that counts, after the prompt (language model); None counts the whole text.
            k: hits on each side.
            baselines: also rank by BM25, TF-IDF x label, embedding, label and chance.

        Returns:
            The answer.

        Raises:
            InputError: the text is empty, or an option does not fit the run.
            LabelError: the run does not know a label.
            MismatchError: the run is not the one the index was built from.
        """
        queries = queries_of([text], [label], [text_pair], [target])
        return next(iter(self.explain_many(queries, against=against, k=k, baselines=baselines)))

    def explain_many(
        self, queries: Sequence[Example], *, against: AnyLabel | None = None, k: int = 10, baselines: bool = True
    ) -> Iterable[Answer]:
        """Explain several queries; gradients are taken together.

        Args:
            queries: texts with labels (None explains the predicted class).
            against: a second class for all of them.
            k: hits on each side.
            baselines: also rank by the baselines.

        Yields:
            One answer per query, in order.

        Raises:
            InputError: a text is empty, or an option does not fit the run.
        """
        if k < 1:
            raise InputError(f"k is {k}: ask for at least one hit")
        asked = self._ask(queries, against)
        for row, query in enumerate(queries):
            scores = self._scores(asked, row)
            yield self._answer(asked, row, query, scores, k, baselines=baselines)

    def scores(
        self,
        texts: Sequence[str],
        labels: Labels | None = None,
        *,
        text_pairs: Sequence[str | None] | None = None,
        targets: Sequence[str | None] | None = None,
        against: AnyLabel | None = None,
    ) -> Float[np.ndarray, "q n"]:
        """Score every training example against some queries.

        Args:
            texts: the queries.
            labels: their classes by name or number; None (for all or for one) is the predicted class.
            text_pairs: second texts of pairs.
            targets: the parts that count (language model).
            against: a second class for all of them.

        Returns:
            Scores [q n] in data order, in the unit of the method; NaN for skipped training rows.

        Raises:
            InputError: lists of different lengths, an empty text, or an option that does not fit the run.
        """
        queries = queries_of(texts, labels, text_pairs, targets)
        asked = self._ask(queries, against)
        blocks = [
            self._block(asked, range(start, min(start + BLOCK, len(queries))))
            for start in range(0, len(queries), BLOCK)
        ]
        return np.concatenate(blocks) if blocks else np.zeros((0, len(self)))

    def predict(self, texts: Sequence[str], *, text_pairs: Sequence[str | None] | None = None) -> list[str]:
        """Predict the class of some texts at the last checkpoint of the index.

        Args:
            texts: the texts.
            text_pairs: second texts of pairs.

        Returns:
            Names of classes.

        Raises:
            InputError: the run is a language model, a text is empty, or lists of different lengths.
        """
        names = self.run.label_names
        if names is None:
            raise InputError("this run is a language model: it predicts no classes")
        queries = queries_of(texts, text_pairs=text_pairs)
        check_queries(queries)
        encoded = self.run.encoder(self.store.plan.max_length).encode(queries) if queries else []
        _, predicted, _ = self._labels(self._pass(self.store.plan.checkpoints[-1].step), queries, encoded)
        return [names[number] for number in predicted]

    def _block(self, asked: Asked, rows: range) -> Float[np.ndarray, "q n"]:
        """Scores of some queries together: the postings of a token are read once for all of them."""
        if self.store.plan.recipe.baseline is not None:
            return np.stack([self._scores(asked, row) for row in rows])
        taken = {step: Gradient.stack([one.example(row) for row in rows]) for step, one in asked.gradients.items()}
        return self._search.scores(taken, len(rows))

    def _scores(self, asked: Asked, row: int) -> Float[np.ndarray, " n"]:
        name = self.store.plan.recipe.baseline
        if name is not None:
            return self._beside.scores(name, asked.texts(row))
        return self._search.scores({step: gradient.example(row) for step, gradient in asked.gradients.items()}, 1)[0]

    def _ask(self, queries: Sequence[Example], against: AnyLabel | None) -> Asked:
        check_queries(queries)
        run = self.run
        if against is not None and self.store.plan.recipe.baseline is not None:
            raise InputError(f"{self.method} does not compare two labels: ask without `against`")
        if against is not None and run.label_names is None:
            raise InputError(
                "`against` compares two labels, and this run is a language model: "
                "give the part that counts as target instead"
            )
        encoded = run.encoder(self.store.plan.max_length).encode(queries) if queries else []
        last = self._pass(self.store.plan.checkpoints[-1].step)
        other = None if against is None else run.label_number(plain_label(against))
        labels, predicted, probabilities = self._labels(last, queries, encoded)
        if other is not None and other in labels:
            raise InputError(
                f"`against` is {against!r}, and so is the label of {named(queries, labels.index(other))} "
                "(without a label, the predicted class): name two different classes"
            )
        asked = Asked(queries, encoded, labels, other, predicted, probabilities)
        for checkpoint in self.store.plan.checkpoints:
            asked.take(
                checkpoint.step, self._pass(checkpoint.step), self.store.plan.batch_size, equal=run.equal_lengths
            )
        return asked

    def _labels(
        self, last: Pass, queries: Sequence[Example], encoded: Sequence[Encoded]
    ) -> tuple[list[int], list[int], list[Float[np.ndarray, " l"]]]:
        if self.run.label_names is None:
            labelled = next((query.label for query in queries if query.label is not None), None)
            if labelled is not None:
                raise LabelError(f"label {labelled!r} was given, but this run is a language model and has no labels")
            return [-1] * len(queries), [-1] * len(queries), []
        size = 1 if self.run.equal_lengths else self.store.plan.batch_size
        found = [last.probabilities(encoded[start : start + size]) for start in range(0, len(encoded), size)]
        probabilities = [one for batch in found if batch is not None for one in batch]
        predicted = [int(one.argmax()) for one in probabilities]
        labels = [
            guess if query.label is None else self.run.label_number(query.label)
            for query, guess in zip(queries, predicted, strict=True)
        ]
        return labels, predicted, probabilities

    def _pass(self, step: int) -> Pass:
        if step not in self._passes:
            checkpoint = next(one for one in self.run.checkpoints if one.step == step)
            model = self.run.load(checkpoint)
            held = sum(parameter.nbytes for work in self._passes.values() for parameter in work.model.parameters())
            if held + sum(parameter.nbytes for parameter in model.parameters()) > KEPT_BYTES:
                self._passes.clear()
            last = step == self.store.plan.checkpoints[-1].step
            self._passes[step] = Pass(
                self.run, model, self.store.plan.recipe, self.run.encoder(self.store.plan.max_length), pooled=last
            )
        return self._passes[step]

    def _answer(
        self,
        asked: Asked,
        row: int,
        query: Example,
        scores: Float[np.ndarray, " n"],
        k: int,
        *,
        baselines: bool,
    ) -> Answer:
        plan = self.store.plan
        valid = np.flatnonzero(np.isfinite(scores))
        ranked = valid[np.lexsort((valid, -scores[valid]))]
        helped = [int(place) for place in ranked[:k] if scores[place] > 0]
        hurt = [int(place) for place in valid[np.lexsort((valid, scores[valid]))][:k] if scores[place] < 0]
        notes = [*self.store.manifest.notes, *asked.notes(row), *self._sparse(asked, row, found=bool(helped or hurt))]
        lists, reasons = self._beside.lists(asked.texts(row), k) if baselines else ({}, [])
        if baselines and asked.against is not None:
            reasons = ["the baselines rank for the label alone, not against the other one", *reasons]
        return Answer(
            version=__version__,
            method=plan.recipe.name,
            checkpoints=tuple(Checkpoint(one.step, one.learning_rate, one.rule) for one in plan.checkpoints),
            embedding_path=plan.embedding_path if plan.recipe.layer == "embedding" else None,  # type: ignore[arg-type]
            loss=plan.recipe.loss,
            query=asked.view(row, plan.label_names),
            helped=self._hits(asked, row, query, helped, scores),
            hurt=self._hits(asked, row, query, hurt, scores),
            baselines=lists,
            notes=tuple(notes + reasons),
            n_examples=plan.n,
        )

    def _sparse(self, asked: Asked, row: int, *, found: bool) -> list[str]:
        """Say why there is little or nothing to show."""
        plan = self.store.plan
        by_token = plan.recipe.layer == "embedding" and not (plan.tied and plan.embedding_path != "input")
        if by_token and plan.recipe.synonym_threshold is None and not self._shares_a_token(asked, row):
            left = "what is left comes from special tokens alone" if found else "nothing to show"
            if plan.recipe.top is not None:
                return [f"none of the tokens that {self.method} keeps of this text is kept of a training text: {left}"]
            return [f"no token of this text stands in any training text: {left}"]
        return [] if found else ["every score is zero: nothing to show"]

    def _shares_a_token(self, asked: Asked, row: int) -> bool:
        for step, gradient in asked.gradients.items():
            rows = gradient.example(row).rows
            if rows is None or not self._tokens(step).isdisjoint(rows.ids[rows.words >= 0].tolist()):
                return True
        return False

    def _tokens(self, step: int) -> frozenset[int]:
        if step not in self._held:
            self._held[step] = frozenset(self.store.postings(step).tokens)
        return self._held[step]

    def _hits(
        self, asked: Asked, row: int, query: Example, places: list[int], scores: Float[np.ndarray, " n"]
    ) -> tuple[Hit, ...]:
        """Hits in the order of their scores as the sum of their words, which float64 knows better than the scan."""
        hits = [self._hit(asked, row, query, place, scores) for place in places]
        ordered = sorted(hits, key=lambda hit: (-abs(hit.score), hit.row))
        return tuple(replace(hit, rank=rank) for rank, hit in enumerate(ordered, 1))

    def _hit(self, asked: Asked, row: int, query: Example, place: int, scores: Float[np.ndarray, " n"]) -> Hit:
        columns: dict[str, Any] = {name: column[place] for name, column in self.store.examples.items()}
        shown = (str(columns["text"]), None, columns["text_pair"], columns["target"])
        example = Example(str(columns["id"]), int(columns["row"]), *shown)
        mine, theirs = splitter.words(example.parts), splitter.words(query.parts)
        parts = [
            self._search.terms(step, place, gradient.example(row), (len(mine), len(theirs)))
            for step, gradient in asked.gradients.items()
            if self.store.plan.recipe.baseline is None
        ]
        return Hit(
            rank=0,
            id=example.id,
            row=example.row,
            score=float(sum(part.sum() for part in parts)) if parts else float(scores[place]),
            text=example.text,
            text_pair=example.text_pair,
            target=example.target,
            label=columns["label"],
            predicted=columns["predicted"],
            by_checkpoint=tuple(float(part.sum()) for part in parts),
            words=word_pairs(np.sum(parts, axis=0), mine, theirs, paired=len(example.parts) > 1 or len(query.parts) > 1)
            if parts
            else (),
        )
