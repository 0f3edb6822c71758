"""What the model of an index predicts, at the last checkpoint of the index."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError
from proponent.index.loading import LoadedRun
from proponent.index.queries import ALIKE, alike, check_queries, labels_of
from proponent.index.query_input import AnyLabel, Queries, queries_of
from proponent.index.store_facts import StoreFacts
from proponent.row_losses import RowLosses
from proponent.views import Explanation

NOT_A_CLASSIFIER = "this run is a language model: it predicts no classes"
NO_TOKENS = (
    "this run predicts no tokens, and losses of rows are those of their tokens: use `predict` or `probabilities`"
)


class Predicting(StoreFacts):
    """Predictions of classes, losses of texts; `_loaded` and `say` are set by the class that opens the index."""

    _loaded: LoadedRun
    say: Callable[[str], None]

    @property
    def contrasts(self) -> bool:
        """Whether a class can be compared with a second one."""
        raise NotImplementedError

    def explain_with_scores(
        self, queries: Queries, against: AnyLabel | None, k: int
    ) -> Iterator[tuple[Explanation, Float[np.ndarray, " n"]]]:
        """Explain some queries without baselines; with each explanation, the scores of all training examples."""
        raise NotImplementedError

    def predict(self, texts: Queries, *, text_pairs: Sequence[str | None] | str | None = None) -> list[str]:
        """Predict the class of some texts at the last checkpoint of the index.

        Args:
            texts: the texts, see `explain_many`.
            text_pairs: second texts of pairs.

        Returns:
            Class names.

        Raises:
            InputError: the run is a language model, a text is empty, or lists of different lengths.
        """
        found = self.probabilities(texts, text_pairs=text_pairs)
        return [self._loaded.run.task.labels.names[int(one.argmax())] for one in found]

    def probabilities(
        self, texts: Queries, *, text_pairs: Sequence[str | None] | str | None = None
    ) -> Float[np.ndarray, "q l"]:
        """Class probabilities of some texts at the last checkpoint of the index.

        Args:
            texts: the texts, see `explain_many`.
            text_pairs: second texts of pairs.

        Returns:
            Probabilities [q l], 0 to 1, of the classes in the order of the model's outputs.

        Raises:
            InputError: the run is a language model, a text is empty, or lists of different lengths.
        """
        names = self._loaded.run.task.labels.names
        if not names:
            raise InputError(NOT_A_CLASSIFIER)
        queries = [replace(one, label=None) for one in queries_of(texts, text_pairs=text_pairs)]
        check_queries(queries)
        encoded = self._loaded.encoder.encode(queries) if queries else []
        last, size = self._loaded.at(self.store.plan.checkpoints[-1].id), self.store.plan.source.batch_size
        _, _, found = labels_of(last, queries, encoded, size)
        return np.stack(found) if found else np.zeros((0, len(names)), dtype=np.float32)

    def losses(self, rows: Queries) -> RowLosses:
        """Measure the loss of some rows at the last checkpoint of the index, as an evaluation while training does.

        The tokens that count are those that count in training: of a conversation, all turns of the assistant where the
        index counts them alone.

        Args:
            rows: texts, dicts, or examples, see `explain_many`; rows of `proponent.data.read` are examples.

        Returns:
            Mean loss over the counted tokens [n] in nats, number of these tokens [n], truncated rows [n].

        Raises:
            InputError: the run predicts no tokens, or a row is not what its task reads.
        """
        run, plan = self._loaded.run, self.store.plan
        if run.task.predicts not in {"tokens", "next tokens"}:
            raise InputError(NO_TOKENS)
        queries = queries_of(rows)
        encoded = self._loaded.encoder.encode(queries) if queries else []
        computer = self._loaded.forward(plan.checkpoints[-1].id)
        found = np.full(len(encoded), np.nan)
        counted = np.asarray([one.n_counted for one in encoded], dtype=np.int64)
        some: list[int] = np.flatnonzero(counted).tolist()
        lengths = [encoded[at].length for at in some]
        for batch in alike(lengths, plan.source.batch_size, 1.0 if run.equal_lengths else ALIKE):
            places = [some[at] for at in batch]
            made = computer.train([encoded[at] for at in places], [0] * len(places))
            found[places] = np.where(made.bad, np.nan, made.losses)
        return RowLosses(found, counted, np.asarray([one.truncated for one in encoded], dtype=np.bool_))
