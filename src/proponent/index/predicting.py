"""What the model of an index predicts, at the last checkpoint of the index."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from proponent.errors import InputError
from proponent.index.loading import LoadedRun
from proponent.index.queries import check_queries, labels_of
from proponent.index.query_input import AnyLabel, Queries, queries_of
from proponent.index.store_facts import StoreFacts
from proponent.views import Explanation

NOT_A_CLASSIFIER = "this run is a language model: it predicts no classes"


class Predicting(StoreFacts):
    """Predictions of classes; `_loaded` and `say` are set by the class that opens the index."""

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
