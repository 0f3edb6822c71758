"""The public functions: build an index by a method's name, and open one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, cast

from proponent.data import Columns, read
from proponent.engine import EngineName, engine_of
from proponent.errors import InputError
from proponent.index import Index, Options, default_method, summed
from proponent.index import build as build_index
from proponent.index.parts import in_parts
from proponent.index.planning import planned_batch_size
from proponent.method import Method
from proponent.method_table import stored_method
from proponent.models import Run
from proponent.models.counting import Stated
from proponent.models.device_map import GivenMap, GivenMemory
from proponent.store import RowKind, building, plan_folder


def build(
    run: Run | str | Path | Sequence[Run | str | Path],
    data: object,
    out: str | Path,
    method: str | Method | None = None,
    *,
    columns: Columns | None = None,
    split: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    device_map: GivenMap | None = None,
    max_memory: GivenMemory | None = None,
    allow_empty: bool = False,
    assistant_only: bool | None = None,
    completion_only: bool | None = None,
    chat_template: str | Path | None = None,
    max_length: int | None = None,
    batch_size: int | None = None,
    max_bad_rows: float = 0.01,
    steps: Sequence[int] | None = None,
    second_moment: Literal["recorded", "optimizer", "estimate"] = "recorded",
    queries: object = None,
    rows: RowKind = "fp32",
    append: bool = False,
    shard: str | None = None,
    repair: bool = False,
    workers: int = 1,
    engine: EngineName = "processes",
    segment_rows: int = 65_536,
    quiet: bool = False,
    set: Mapping[str, object] | None = None,  # noqa: A002 # as the command line's --set
    **changes: object,
) -> Index:
    """Build an index of a training set with a method; an unfinished index is resumed.

    Several processes may build the same index at the same time: each computes shards that no other process works on.

    Args:
        run: the training run, or its folder; for several independently seeded runs, scores are summed over the runs.
        data: the training set: path, Dataset, DataFrame, Arrow table or list of dicts.
        out: folder of the index; or the address of one in a bucket, such as "s3://bucket/folder" (docs/buckets.md).
        method: a name from the table of methods, a method file, or a method as data (`proponent.Gradients`); None takes
            the best measured method that the run allows (grad-cos for a classifier fine-tuned from a pretrained model,
            tracin-we-idf for a model of classes or other answers trained from scratch, both by the run's record;
            tracin-we-adam-unit for another classifier with recorded second moments, else tracin-we) and reports it.
        columns: names of the columns; None means text, text_pair, label, id and target.
        split: split of a DatasetDict or hub data set.
        device: of a run that is given as a folder, see `Run.from_pretrained`; None means auto.
        dtype: of such a run, the precision of weights and passes; None means float32.
        device_map: of such a run, how its models are split over several GPUs; None means not.
        max_memory: with a rule in device_map, the most bytes of weights per GPU.
        allow_empty: accept rows with empty texts instead of refusing them.
        assistant_only: of conversations, only what the chat template marks as the assistant's counts; None means as in
            the training, if its Recorder noted that, else False (so do the next two).
        completion_only: of rows of prompt and completion, only the completion counts; None: else True.
        chat_template: the template of the training, as a file or as text; None: else the tokenizer's own.
        max_length: maximum tokens read per text; None for the model's limit, at most 512.
        batch_size: examples per pass; None for that of an index to go on with, else 32 on the CPU, 256 on a GPU.
        max_bad_rows: maximum share of rows that may be skipped because their loss or gradient is not finite.
        steps: checkpoints to use; None uses all.
        second_moment: source of second moments for an optimizer-aware method.
        queries: a file (or other data) of queries, in the same columns, whose autocorrelation is combined with that of
            the training set (trackstar); None uses the training set's only.
        rows: storage type of gradient rows: "fp32", or shorter with a scale per row, "fp16" or "int8".
        append: add the data to the finished index in `out`, which must be of the same run and method.
        shard: "i/N": compute part i of N of the shards; the process that ends last seals the index.
        repair: check every byte of a finished index, and recompute damaged parts.
        workers: processes that compute the index; the rows are sent to each of them. On a GPU they share it, with Ray
            each has its own.
        engine: "processes" of this machine, or "ray": actors, of the cluster that RAY_ADDRESS names or else on this
            machine, each with a GPU of its own if the run is on one.
        segment_rows: maximum examples per segment.
        quiet: no progress on stderr.
        set: fields of the method to change, as `--set` does: {"damping": 0.1, "unit_norm": True, "top": 20}.
        changes: the same fields as keywords.

    Returns:
        The open index. With `shard`, the finished part of the index while other shards are missing.

    Raises:
        InputError: run, data or method cannot be used as they are.
        MismatchError: the folder contains an index of another run, data set or method.
        DiskFullError: no space left; the same call resumes.
    """
    _check_types(out, columns, steps, set)
    columns, one = columns or Columns(), _one(run, device, dtype, device_map, max_memory)
    options = Options(
        max_length=max_length,
        batch_size=_batch_size(one, plan_folder(out)) if batch_size is None else batch_size,
        max_bad_rows=max_bad_rows,
        steps=None if steps is None else tuple(steps),
        second_moment=second_moment,
        queries=None if queries is None else read(queries, columns=replace(columns, weight="")),
        rows=rows,
        append=append,
        shard=shard,
        repair=repair,
        segment_rows=segment_rows,
        quiet=quiet,
        stated=Stated.of(assistant_only, completion_only, chat_template),
        columns={one.name: getattr(columns, one.name) for one in fields(columns)},
    )
    options.check()
    method = _default(one, options) if method is None else method
    wanted = stored_method(method, **(given := {**(set or {}), **changes}))
    examples = read(data, columns=columns, split=split, allow_empty=allow_empty)
    wanted = summed(wanted, one, examples.layout) if isinstance(method, str) and "loss" not in given else wanted
    ahead = in_parts(engine_of(workers, engine, gpu=one.placement.device.startswith("cuda")), workers, options)
    with building(out, repair=repair, adding=examples.fingerprint if append else None) as folder:
        build_index(one, examples, folder, wanted, options, ahead)
    return _opened(out, one, partial=shard is not None)


def _default(run: Run, options: Options) -> str:
    """The best measured method that a run allows; says why."""
    method, reason = default_method(run, options.steps, options.second_moment)
    if not options.quiet:
        options.say(reason)
    return method


def _opened(out: str | Path, run: Run, *, partial: bool) -> Index:
    how = {"trust_remote_code": run.trust_remote_code, "partial": partial}
    placed = {name: value for name, value in run.placement.options.items() if name != "dtype"}
    return Index(out, run.joined or run.path, base=run.info.base, **cast("Any", how | placed))


def open(  # noqa: A001 # the verb that users know
    path: str | Path,
    *,
    run: str | Path | Sequence[str | Path] | None = None,
    base: str | Path | None = None,
    trust_remote_code: bool = False,
    partial: bool = False,
    allow_missing: bool = False,
    kernel: Literal["numpy", "numba"] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    device_map: GivenMap | None = None,
    max_memory: GivenMemory | None = None,
    words: str | None = None,
) -> Index:
    """Open a finished index; the model is loaded only for explaining a new text.

    Args:
        path: the index: its folder, or its address in a bucket.
        run: folder of the run, if it has moved; several for joined runs.
        base: folder of an adapter's base model, if it has moved.
        trust_remote_code: allow custom code shipped with the run's model (an index never allows it by itself).
        partial: also open an unfinished index; every explanation notes that it is incomplete.
        allow_missing: also open an index with missing shards; every explanation notes that they are missing.
        kernel: implementation of the inner loop of a search: "numpy" (the default) or "numba".
        device: where the model of a new text runs: cpu, cuda, cuda:N or mps; auto takes the first CUDA device, else
            the CPU.
        dtype: precision of the model; None for that of the index.
        device_map: how the model is split over several GPUs, see `Run.from_pretrained`; None means not.
        max_memory: with a rule in device_map, the most bytes of weights per GPU.
        words: what the words of an answer are: "terms" (exact terms of the scored layers), "embedding" (word-embedding
            terms) or "masked" (change when masked); None for the default of the method.

    Returns:
        The index.

    Raises:
        InputError: there is no finished index, or its method does not have such words.
        DamagedError: its files are missing, truncated or changed.
    """
    return Index(
        path,
        run=run,
        base=base,
        trust_remote_code=trust_remote_code,
        partial=partial,
        allow_missing=allow_missing,
        kernel=kernel,
        device=device,
        dtype=dtype,
        device_map=device_map,
        max_memory=max_memory,
        words=words,
    )


def _check_types(out: object, columns: object, steps: object, changes: object) -> None:
    """Refuse arguments of a wrong type that would otherwise fail with an unclear error."""
    if not isinstance(out, str | Path):
        raise InputError(f"out is {out!r}: give the folder of the index")
    if not isinstance(columns, Columns | None):
        raise InputError(f"columns is {columns!r}: give proponent.Columns(text=...)")
    if not isinstance(steps, Iterable | None):
        raise InputError(f"steps is {steps!r}: give a list of steps, such as [100, 200], or None for all")
    fields_given = isinstance(changes, Mapping | None) and all(
        isinstance(name, str) for name in cast("Iterable[object]", changes or ())
    )
    if not fields_given:
        raise InputError(f'set is {changes!r}: give a dict of fields, such as {{"damping": 0.1}}')


def _batch_size(run: Run, folder: Path) -> int:
    """That of the index, if it exists; else that of the device."""
    return planned_batch_size(folder) or run.placement.batch_size


def _one(run: Run | str | Path | Sequence[Run | str | Path], *given: object) -> Run:
    names = ("device", "dtype", "device_map", "max_memory")
    placed: dict[str, Any] = {name: value for name, value in zip(names, given, strict=True) if value is not None}
    if isinstance(run, str | Path):
        return Run.from_pretrained(run, **placed)
    if isinstance(run, Run):
        if placed:
            raise InputError("device and dtype are those of the run: give them to Run.from_pretrained")
        return run
    if not isinstance(cast("object", run), Iterable | None) or isinstance(cast("object", run), bytes):
        raise InputError(f"run is {run!r}: give a folder, a proponent.Run, or a list of them")
    if not run:
        raise InputError("no run was given: name at least one")
    runs = [_one(part, *given) for part in run]
    return runs[0] if len(runs) == 1 else Run.join(runs)
