"""Extrapolate measured batches to the whole training set."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import nn

from proponent.cost.measurements import (
    Bench,
    DevicePeak,
    distinct,
    extrapolate,
    index_scratch,
    measure_disk,
    measure_scatter,
    peak_during,
    size,
    timed,
)
from proponent.data import Examples, parquet_bytes
from proponent.errors import DataError
from proponent.gradients.computer import GradientComputer
from proponent.gradients.forms import Rows
from proponent.gradients.gradient import Gradient
from proponent.gradients.vocabulary_head import head_of, squares
from proponent.index.model_check import check_model
from proponent.index.options import DEFAULTS, Options
from proponent.index.planning import batches, chosen, label_numbers, plan_segments, shard_of
from proponent.index.row_check import tell_batches
from proponent.index.stored_columns import stored_columns
from proponent.index.worker import KEPT_BYTES, untrained
from proponent.method import Gradients, Retaken, Term
from proponent.models import Masks, Run, encoded_bytes
from proponent.models.counting import rules_of
from proponent.preconditioners.batches import StoredBatch
from proponent.processes import memory
from proponent.store.rows import decode_arrays

StageName = Literal["tokenize", "load", "gradients", "tables", "curvature", "postings", "seal"]
Floats = Float[np.ndarray, " b"]

SAMPLE = 4096
"""Maximum number of examples whose tokens are counted; a larger set is taken to be similar."""

MOST_SAMPLING = 1.5
"""Seconds after which the sample stops growing."""

MOST_LOOKED = 100_000
"""Number of examples that are searched for the longest texts."""

MOST_SHARE, LEAST_SECONDS, SLOW = 0.04, 2.0, 0.5
"""Share of the build's expected time that batches are measured for, the seconds that are spent in any case, and those
of a batch from which a single one is enough."""


@dataclass(frozen=True)
class Stage:
    """One stage of a build."""

    # "tokenize" (labels and token counts), "load" (weights from the disk), "gradients" (forward, backward and the
    # shards on disk), "tables" (other stored data: texts, tables, second moments, norms), "curvature" (its passes;
    # if there is one), "postings" (the same rows by token), "seal" (checksums, the manifest)
    name: StageName
    seconds: float  # predicted time


@dataclass(frozen=True)
class Forecast:
    """Predicted cost of an index."""

    n: int  # examples
    checkpoints: int  # number of checkpoints to index
    segments: int  # number of segments of the training set
    batches: int  # passes through the model, over all checkpoints
    measured: int  # batches that were measured
    stages: tuple[Stage, ...]  # in the order of a build
    # peak memory of the process in bytes, including libraries and data; None if the system does not report it
    peak_rss: int | None
    peak_device: int | None  # peak memory of the GPU in bytes, of several the fullest; None without one
    disk: dict[str, int]  # bytes by kind: "forms", "postings", "examples", "tables"
    notes: tuple[str, ...] = ()  # which layers are scored, whether in full, and what is not predicted

    @property
    def seconds(self) -> float:
        """Total over all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def bytes(self) -> int:
        """Size of the whole index."""
        return sum(self.disk.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as plain values."""
        stages = [asdict(stage) for stage in self.stages]
        return asdict(self) | {"stages": stages, "seconds": self.seconds, "bytes": self.bytes}


def forecast(
    run: Run,
    examples: Examples,
    method: Term,
    options: Options = DEFAULTS,
    *,
    folder: Path = Path(),
    budget: float = 6.0,
) -> Forecast:
    """Predict the cost of an index; takes about ten seconds and leaves no files."""
    options.check()
    if not len(examples):
        raise DataError(f"{examples.name} has no rows: there is nothing to index")
    with index_scratch(folder) as scratch:
        return _Forecaster(run, examples, method, options, scratch, budget).whole()


@dataclass(frozen=True)
class _BatchPlan:
    """The batches of one checkpoint as a build would split them, one entry each."""

    padded: Floats
    tokens: Floats
    shard: Int[np.ndarray, " b"]
    segment: Int[np.ndarray, " b"]


class _Forecaster:
    def __init__(
        self, run: Run, examples: Examples, method: Term, options: Options, scratch: Path, budget: float
    ) -> None:
        run = run.named(examples.label_names)
        self.run, self.examples, self.options = run, examples, options
        self.labels: list[int] = []
        self.labelling = timed(lambda: self.labels.extend(label_numbers(run, examples)))
        self.checkpoints = chosen(run, options.steps, method)
        rules = rules_of(run, examples.layout, options.max_length, options.stated)
        self.encoder = run.encoder(rules.max_length, Masks.of(method), rules.counting)
        tell_batches(run, self.encoder, examples, examples.name)
        self.sample, self.lengths = self._counted()
        parquet_bytes({"warm": [1]})  # trigger its imports now: they are not timed, but count as memory
        model, self.loading = self._loaded()
        self.held = memory()
        checked = check_model(method, run, model, self.checkpoints, options, queries=False)
        self.method, self.fitters = checked.method, checked.fitters
        self.scaled = (isinstance(self.method, Gradients) and self.method.scales_train) or examples.weights is not None
        work = GradientComputer(run, model, self.method, self.encoder, replace(checked.spec, pooled=True))
        self.by_token, self.table = work.spec.by_token, work.table
        self.costs = [one.cost(checked.facts) for one in self.fitters]
        self.every = lengths = self._all_lengths()
        width = self.table[1] if work.layers is None else work.layers.width(self.table[1], lengths)
        self.cuts = plan_segments(lengths, width, options.segment_rows, 0)
        self.laid = self._lay()
        notes = [] if work.layers is None else [*work.layers.notes(), *(one.unforeseen for one in self.costs)]
        self._layered = (*run.notes, *rules.notes, *self.dropped, *filter(None, notes))
        self.work, self.tables = work, size(work.tables()) + sum(one.held for one in self.costs)
        self.bench = Bench(work, self.encoder, examples, self.labels, options.rows)
        self.busiest = self._measure(budget)
        self.shard, self.laying = self.bench.shard()
        self.disk = measure_disk(scratch)
        self.scatter = measure_scatter(scratch, self.shard, self.disk) if self.by_token else None

    def whole(self) -> Forecast:
        c, kept, once = len(self.checkpoints), self._over("tokens", "kept"), self._once()
        posting, postings = self._postings()
        beside, bytes_beside = self._baselines()
        each = c * float(self._over("padded", "passing").sum() + self._over("tokens", "encoding").sum())
        seconds: dict[StageName, float] = {
            "tokenize": self.labelling + (float(self._over("tokens", "encoding").sum()) if once else self.counting),
            "load": self.loading[0] + self.loading[1] * (c * len(self.cuts) - 1),
            "gradients": self._gradients(float(kept.sum())),
            "tables": beside + c * (self.tables * self.disk.byte + self.disk.file) + self._scaling(),
            "curvature": sum(one.after for one in self.costs) * each,
            "postings": posting,
            "seal": self._sealing(),
        }
        seconds["tables"] += sum(one.before for one in self.costs) * each
        forms = int(c * kept.sum())
        return Forecast(
            n=len(self.examples),
            checkpoints=c,
            segments=len(self.cuts),
            batches=c * len(self.laid.padded),
            measured=len(self.bench.points),
            stages=tuple(Stage(name, spent) for name, spent in seconds.items() if spent or name != "curvature"),
            peak_rss=self._peak(),
            peak_device=self.device_peak,
            disk={"forms": forms, "postings": postings, "examples": bytes_beside, "tables": c * self.tables},
            notes=(*self._layered, *self.work.notes, *self.device_notes),
        )

    def _over(self, by: str, cost: str) -> Floats:
        """Extrapolate a measured cost to all batches of a checkpoint."""
        points = [(float(getattr(one, by)), float(getattr(one, cost))) for one in self.bench.points]
        return extrapolate(points, getattr(self.laid, by))

    def _counted(self) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
        """Count the tokens of a sample and of the longest texts; return their rows and lengths."""
        n = len(self.examples)
        order = np.random.default_rng(0).permutation(n)
        found: list[tuple[Int[np.ndarray, " k"], Bool[np.ndarray, " k"]]] = []
        spent = 0.0
        for start in range(0, min(n, SAMPLE), 256):
            some = self.examples.subset(order[start : min(start + 256, SAMPLE)])
            spent += timed(lambda some=some: found.append(self.encoder.lengths_and_idle(some)))
            if spent > MOST_SAMPLING:
                break
        lengths, idle = (list(one) for one in zip(*found, strict=True))
        counted = sum(map(len, lengths))
        dropped: list[str] = [self.examples.ids[row] for row in np.sort(order[:counted][np.concatenate(idle)]).tolist()]
        of = "" if counted == n else f" of {counted} that were looked at"
        self.dropped = [untrained(dropped, self.encoder.max_length, of)] if dropped else []
        self.counting = spent * n / counted
        looked = order[counted : counted + MOST_LOOKED]
        characters = np.asarray([sum(map(len, one.parts)) for one in self.examples.subset(looked)], dtype=np.int64)
        longest = looked[np.argsort(-characters, kind="stable")[: self.options.batch_size]]
        lengths.append(self.encoder.lengths(self.examples.subset(longest)))
        return np.concatenate([order[:counted], longest]), np.concatenate(lengths)

    def _all_lengths(self) -> Int[np.ndarray, " n"]:
        """Tokens of every example: counted where possible, otherwise distributed as in the sample."""
        every = np.zeros(len(self.examples), dtype=np.int64)
        rest = np.setdiff1d(np.arange(len(every)), self.sample)
        if len(rest):
            # the longest texts at the end of the sample are longer than the remaining ones
            own = np.sort(self.lengths[: max(1, len(self.lengths) - self.options.batch_size)])
            spread = own[np.arange(len(rest)) * len(own) // len(rest)]
            every[rest] = np.random.default_rng(1).permutation(spread)
        every[self.sample] = self.lengths
        return every

    def _loaded(self) -> tuple[nn.Module, tuple[float, float]]:
        """A checkpoint, the seconds of the first load (which imports the model's code), and those of later loads."""
        loaded: list[nn.Module] = []
        first = timed(lambda: loaded.append(self.run.load(self.checkpoints[0])))
        again = first
        if len(self.checkpoints) > 1:
            loaded.clear()
            again = timed(lambda: loaded.append(self.run.load(self.checkpoints[-1])))
        return loaded[0], (first, again)

    def _lay(self) -> _BatchPlan:
        found: list[tuple[int, int, int, int]] = []
        shard = 0
        for segment, one in enumerate(self.cuts):
            total = np.concatenate([[0], np.cumsum(one.lengths)])
            for begin, end in zip(one.planned.shards[:-1], one.planned.shards[1:], strict=True):
                for start, stop in self._batches(one.lengths, begin, end):
                    padded = (stop - start) * int(one.lengths[stop - 1])
                    found.append((padded, int(total[stop] - total[start]), shard, segment))
                shard += 1
        padded, tokens, shards, segments = np.asarray(found, dtype=np.int64).T
        return _BatchPlan(padded.astype(np.float64), tokens.astype(np.float64), shards, segments)

    def _batches(self, lengths: Int[np.ndarray, " k"], begin: int, end: int) -> list[tuple[int, int]]:
        return batches(lengths, begin, end, self.options.batch_size, equal=self.run.equal_lengths)

    def _measure(self, budget: float) -> int | None:
        """Measure batches of all lengths, longest first, parts of them if slow; return the memory of the longest."""
        order = np.argsort(self.lengths, kind="stable")
        rows = self.sample[order]
        groups = [rows[slice(*group)] for group in self._batches(self.lengths[order], 0, len(rows))]
        longest = groups[-1] if self.run.equal_lengths else rows[max(0, len(rows) - self.options.batch_size) :]
        pace = self._pace(groups[len(groups) // 2])
        share = MOST_SHARE * pace * float(self.laid.padded.sum()) * len(self.checkpoints)
        budget = min(budget, max(LEAST_SECONDS, share))
        on_device = DevicePeak(self.run.placement.devices)
        part = self._part(longest, pace, budget / 2) if on_device.absent else longest
        peak = peak_during(lambda: self.bench.measure(part))
        on_device.stop()
        spent = self.bench.points[-1].passing
        for count, group in enumerate(_spread(len(groups))):
            if (count >= 3 or pace * self.bench.points[0].padded > SLOW) and spent > budget:
                break
            own = self._part(groups[group], pace, budget - spent)
            spent += timed(lambda own=own: self.bench.measure(own))
        cuts = self.work.parts(self.encoder.encode([self.examples[int(row)] for row in longest]))
        more = max(1.0, max(cut.stop - cut.start for cut in cuts) / len(part))
        rest = float(self.laid.padded.max()) / self.bench.points[0].padded if len(cuts) == 1 else 1.0
        self.device_peak, self.device_notes = on_device.of(min(1.0, rest))
        return peak if peak is None or self.held is None else int(self.held + (peak - self.held) * more)

    def _pace(self, rows: Int[np.ndarray, " k"]) -> float:
        """Roughly the seconds per position, from one text; the first pass of a model is slow and is not timed."""
        self.bench.measure(rows[:1], warm=True)
        spent = timed(lambda: self.bench.measure(rows[:1], warm=True))
        return spent / max(1, int(self._lengths_of(rows[:1])[0]))

    def _part(self, rows: Int[np.ndarray, " k"], pace: float, seconds: float) -> Int[np.ndarray, " m"]:
        """As many of the longest texts of a batch as may be measured in this time; at least one."""
        width = int(self._lengths_of(rows).max())
        return rows[-max(1, min(len(rows), int(seconds / max(pace * width, 1e-9)))) :]

    def _lengths_of(self, rows: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        return self.every[rows]

    def _gradients(self, kept: float) -> float:
        """Seconds of all passes and of writing their shards."""
        c, laid = len(self.checkpoints), self.laid
        times = np.where([size <= KEPT_BYTES for size in self._encoded()], 1, c)
        encoding = 0.0 if self._once() else float((self._over("tokens", "encoding") * times[laid.segment]).sum())
        laying = self.laying * float(self._over("tokens", "wide").sum())
        shards = int(laid.shard[-1]) + 1
        each = float(self._over("padded", "passing").sum()) + laying + kept * self.disk.byte + shards * self.disk.file
        share = shard_of(self.options.shard)
        return (c * each + encoding) / (1 if share is None else share[1])

    def _encoded(self) -> list[int]:
        """Memory of the encoded examples of each segment."""
        return [encoded_bytes(int(one.lengths.sum()), len(one.lengths)) for one in self.cuts]

    def _once(self) -> bool:
        """Whether the examples are encoded when their tokens are counted, and cached."""
        return sum(self._encoded()) <= KEPT_BYTES

    def _postings(self) -> tuple[float, int]:
        """Seconds and bytes of the postings, over all checkpoints."""
        if self.scatter is None:
            return 0.0, 0
        c, rows = len(self.checkpoints), self._over("tokens", "rows")
        one = self.shard["rows.rows"]
        each = one.shape[1] * one.itemsize + (4 if "rows.scale" in self.shard else 0) + 12
        found = distinct(self.shard["rows.ids"], np.bincount(self.laid.shard, weights=rows), self.table[0])
        written = c * each * float(rows.sum())
        files = c * len(self.cuts)
        spent = written * self.scatter.byte + c * float(found.sum()) * self.scatter.put + files * self.disk.file
        return spent, int(written)

    def _baselines(self) -> tuple[float, int]:
        """Seconds and bytes of the texts and of the arrays over the examples."""
        n, c, names = len(self.examples), len(self.checkpoints), self.run.label_names
        some, decoded = range(min(n, 1024)), self.encoder.decoded
        table: list[memoryview] = []
        spent = timed(
            lambda: table.append(
                parquet_bytes(
                    stored_columns(
                        self.examples, some, self.labels, names, np.arange(len(some)), decoded, self.run.task.stored
                    )
                )
            )
        )
        scales = 8 * c if self.scaled else 0
        seen = 4 * (len(names or ()) + self.table[1])  # features for choosing candidates, at every checkpoint
        earlier = (c - 1) * seen if isinstance(self.method, Retaken) else 0
        features = n * (9 + 8 * c + scales + 4 * len(names or ()) + seen + earlier)
        written = len(table[0]) * n // len(some) + features
        return spent * n / len(some) + written * self.disk.byte + 2 * len(self.cuts) * self.disk.file, written

    def _scaling(self) -> float:
        """Seconds of the passes over finished shards: estimated second moments, norms."""
        own = [(fitter, one) for fitter in self.fitters for one in fitter.passes(self.options)]
        passes = [(fitter, one) for fitter, one in own if one.over == "gradients"]
        gradient = Gradient.unpack(decode_arrays(self.shard))
        if gradient.head is not None and self.scaled:
            some, head = gradient.head.example(0), head_of(self.work.tables())
            spent = timed(lambda: squares(some, head, None)) * len(self.checkpoints)
            return spent * float(self.laid.tokens.sum()) / max(1, len(some.target))
        if not self.by_token or not (passes or self.scaled):
            return 0.0
        rows = cast("Rows", gradient.rows)
        none = np.zeros(len(gradient), dtype=np.int64)
        batch = StoredBatch(gradient, none == 0, none, None, self.table)
        spent = sum(
            timed(lambda fitter=fitter, one=one: list(fitter.partial(one, batch, {}, ()))) for fitter, one in passes
        )
        if self.scaled:
            table = np.ones(self.table, dtype=np.float32)
            divided = any(one.stage == "elementwise" for one in self.fitters)
            spent += timed(lambda: (rows.times(table[rows.ids]) if divided else rows).norms())
        return spent * len(self.checkpoints) * float(self._over("tokens", "rows").sum()) / max(1, len(rows.ids))

    def _sealing(self) -> float:
        """Seconds of hashing weights and data; the index's files are hashed while they are written."""
        some = self.examples[:1024]
        hashing = timed(lambda: some.fingerprint) * len(self.examples) / len(some)
        files = [path for one in self.checkpoints for path in one.path.glob("*.safetensors")]
        return hashing + sum(path.stat().st_size for path in files) * self.disk.hashed + 2 * self.disk.file

    def _peak(self) -> int | None:
        """Peak memory in bytes: the longest batch plus a full shard, a shard that is laid out, or postings."""
        if self.held is None or self.busiest is None:
            return None
        laid, rows = self.laid, self._over("tokens", "rows")
        wide = np.bincount(laid.shard, weights=self._over("tokens", "wide")).max()
        kept = np.bincount(laid.shard, weights=self._over("tokens", "kept")).max()
        encoded = self._encoded()
        again = max((one for one in encoded if one <= KEPT_BYTES), default=0) if len(self.checkpoints) > 1 else 0
        again = sum(encoded) if self._once() else again
        laying = 2 * wide + (kept if self.options.rows != "fp32" else 0)
        passing = again + max(self.busiest + wide, self.held + laying)
        held = 24 * np.bincount(laid.segment, weights=rows).max() + 2 * kept + (wide if kept < wide else 0)
        return int(max(passing, self.held + held if self.by_token else 0))


def _spread(count: int) -> list[int]:
    """The numbers below count, ordered so that every prefix is evenly spread: halves, quarters, eighths."""
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda number: int(f"{number:0{bits}b}"[::-1], 2))
