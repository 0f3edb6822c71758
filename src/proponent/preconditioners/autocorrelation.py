"""TrackStar's inverse autocorrelation: R = lambda R_eval + (1 - lambda) R_train.

Chang et al. 2025 (arXiv 2410.17413): lambda satisfies lambda s_eval[j] = (1 - lambda) s_train[j] at one position j of
the sorted eigenvalues of all layers, so that the directions before it, common to all queries, weigh less.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from proponent.errors import DataError, InputError
from proponent.method_parts import Autocorrelation
from proponent.preconditioners.base import BuildOptions, CheckpointFiles, FitFacts, ModelFacts, Pass
from proponent.preconditioners.batches import EACH, Arrays, Batch, LayerShape, Parts, StoredBatch, Sums
from proponent.preconditioners.damped import DampedFitter, mean_outer, outer_sums, refuse_large

SHARE = "curvature.eval_share"
"""Name of the lambda in use, in the table of a checkpoint."""

PLACE = "curvature.eval_place"
"""Name of the position j at which lambda was chosen; 0 if it was given."""

_QUERIES = "_queries"


class Fitter(DampedFitter[Autocorrelation]):
    """The damped inverse of R, one matrix per layer."""

    def check(self, facts: ModelFacts) -> None:
        """Refuse layers that are too large, and missing or too few queries."""
        refuse_large(facts.layers)
        queries, share = facts.options.queries, self.spec.eval_share
        if queries is None:
            if share not in {"auto", 0.0}:
                raise InputError(
                    f"{self.method.name} mixes in the autocorrelation of queries (eval_share {share:g}), and there "
                    "are no queries: pass a file with --eval, or omit eval_share"
                )
            return
        if not len(queries):
            raise DataError(f"{queries.name} has no rows: pass a file of queries with --eval, or omit it")
        if share == "auto":
            self._refuse_too_few(len(queries), [layer.size for layer in facts.layers])

    def passes(self, options: BuildOptions) -> tuple[Pass, ...]:
        """Passes over the training gradients; with queries first one over them, and one for an automatic lambda."""
        matrices = Pass("matrices", "gradients", "after")
        if options.queries is None:
            return (matrices,)
        queries = Pass("queries", "queries", "after")
        if self.spec.eval_share == "auto":
            return (queries, Pass("spectrum", "gradients", "after"), matrices)
        return (queries, matrices)

    def partial(self, this: Pass, batch: Batch, known: Arrays, group: Sequence[LayerShape]) -> Parts:
        """Outer products; for queries the vectors themselves."""
        assert isinstance(batch, StoredBatch)
        if this.name == "queries":
            yield EACH + _QUERIES, batch.vectors
        else:
            yield from outer_sums(batch, group)

    def reduce(self, this: Pass, sums: Sums, known: Arrays, group: Sequence[LayerShape]) -> Arrays:
        """Eigenvalues of both sides, or the inverse of their mixture."""
        if this.name == "queries":
            return {_QUERIES: sums[EACH + _QUERIES]}
        made: Sums = {}
        for layer in group:
            mean = mean_outer(sums, layer)
            if this.name == "spectrum":
                made[f"_train.{layer.at}"] = np.linalg.eigvalsh(mean)
                made[f"_eval.{layer.at}"] = np.linalg.eigvalsh(_of_queries(known, layer))
            else:
                made |= self.matrix(_mixed(mean, known, layer), layer)
        return made

    def close(self, this: Pass, known: Arrays, layers: Sequence[LayerShape]) -> Arrays:
        """Lambda before it is used; the ridges at the end."""
        if this.name == "queries" and self.spec.eval_share != "auto":
            return {SHARE: np.asarray([float(self.spec.eval_share)]), PLACE: np.asarray([0])}
        if this.name == "spectrum":
            train, queries = (np.concatenate([known[f"{side}.{one.at}"] for one in layers]) for side in _SIDES)
            share, place = self.chosen_share(train, queries, len(known[_QUERIES]))
            return {SHARE: np.asarray([share]), PLACE: np.asarray([place])}
        return super().close(this, known, layers)

    def chosen_share(
        self, train: Float[np.ndarray, " p"], queries: Float[np.ndarray, " p"], count: int
    ) -> tuple[float, int]:
        """Lambda, and the position at which both sides weigh the same, from the eigenvalues of all layers."""
        place = self._place(len(train))
        theirs, mine = (max(0.0, float(np.sort(one)[-place])) for one in (queries, train))
        rank = int((queries > 1e-9 * queries.max(initial=0.0)).sum())
        if theirs <= 1e-9 * float(queries.max(initial=0.0)):
            raise InputError(_too_few(count, place, len(train), f"its rank is {rank:,}", rank))
        return mine / (theirs + mine), place

    def _refuse_too_few(self, count: int, widths: Sequence[int]) -> None:
        """Before any gradient is computed, refuse too few queries for the position at which lambda is chosen."""
        total, rank = sum(widths), sum(min(count, one) for one in widths)
        place = self._place(total)
        if place > rank:
            raise InputError(_too_few(count, place, total, f"its rank is at most {rank:,}", rank))

    def _place(self, total: int) -> int:
        wanted = self.spec.eval_component
        place = max(1, round(wanted * total)) if wanted <= 1 else int(wanted)
        if place > total:
            raise InputError(f"eval_component {wanted:g}: the layers of {self.method.name} have {total:,} eigenvalues")
        return place

    def held(self, this: Pass, layer: LayerShape) -> int:
        """Bytes of a layer's matrix."""
        return 8 * layer.size**2

    def fingerprints(self, checkpoints: Mapping[str, CheckpointFiles], options: BuildOptions) -> dict[str, str]:
        """Hash the queries."""
        return {} if options.queries is None else {"queries": options.queries.fingerprint}

    def describe(self, table: Arrays, facts: FitFacts) -> list[str]:
        """Describe the composition of R."""
        return [*super().describe(table, facts), _mixing(table, facts)]


_SIDES = ("_train", "_eval")


def _of_queries(known: Arrays, layer: LayerShape) -> Float[np.ndarray, "p p"]:
    """R_eval of a layer."""
    wide = known[_QUERIES][:, layer.cut].astype(np.float64)
    return wide.T @ wide / max(len(wide), 1)


def _mixed(mean: Float[np.ndarray, "p p"], known: Arrays, layer: LayerShape) -> Float[np.ndarray, "p p"]:
    if SHARE not in known or _QUERIES not in known:
        return mean
    share = float(known[SHARE][0])
    return share * _of_queries(known, layer) + (1.0 - share) * mean


def _too_few(count: int, place: int, total: int, why: str, rank: int) -> str:
    # a component of 1 would be read as a share: all eigenvalues
    earlier = f"a smaller number (--set eval_component={max(2, rank // 2)}), " if rank > 1 else ""
    return (
        f"R_eval of {count} {'queries' if count != 1 else 'query'} has no eigenvalue at place {place:,} of "
        f"{total:,} ({why}), and lambda would be 1: give more queries, {earlier}or lambda itself "
        "(--set eval_share=0.5)"
    )


def _mixing(table: Arrays, facts: FitFacts) -> str:
    queries = facts.queries
    if queries is None or SHARE not in table:
        return f"{facts.step}: R is the autocorrelation of the training set only (no queries were given: --eval)"
    share, place = float(table[SHARE][0]), int(table[PLACE][0])
    how = f"chosen so that both have the same weight at eigenvalue {place:,} of all layers" if place else "as given"
    widest = max(layer.size for layer in facts.layers)
    low = f"; {len(queries)} queries give it a rank of at most {len(queries)} in a layer of up to {widest:,} dimensions"
    return (
        f"{facts.step}: R = {share:.3g} of the autocorrelation of the {len(queries)} queries of {queries.name} + "
        f"{1 - share:.3g} of the training set's (lambda = eval_share {share:.3g}, {how}"
        + (low if len(queries) < widest else "")
        + ")"
    )
