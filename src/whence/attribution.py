"""The public verbs: build an index by a method's name, and open one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from whence.errors import InputError
from whence.examples import Columns, read
from whence.index import Index, Options
from whence.index import build as build_index
from whence.methods import recipe_of
from whence.model import Run
from whence.recipe import Recipe


def build(
    run: Run | str | Path | Sequence[Run | str | Path],
    data: object,
    out: str | Path,
    method: str | Recipe = "tracin-we",
    *,
    columns: Columns | None = None,
    split: str | None = None,
    allow_empty: bool = False,
    max_length: int | None = None,
    batch_size: int = 32,
    max_bad_rows: float = 0.01,
    steps: Sequence[int] | None = None,
    second_moment: Literal["recorded", "optimizer", "estimate"] = "recorded",
    quiet: bool = False,
    **changes: object,
) -> Index:
    """Build an index of a training set under a method; an unfinished one is resumed.

    Args:
        run: the training run, or its folder.
        data: the training set: path, Dataset, DataFrame, Arrow table or list of dicts.
        out: folder of the index.
        method: a name of the table of methods, or a recipe.
        columns: names of the columns; None for text, text_pair, label, id and target.
        split: split of a DatasetDict or hub data set.
        allow_empty: take rows with empty texts instead of refusing them.
        max_length: most tokens read of a text; None for the model's limit, at most 512.
        batch_size: examples per pass.
        max_bad_rows: share of rows that may be left out because their loss or gradient is not finite.
        steps: checkpoints to use; None uses all.
        second_moment: where an optimizer-aware method finds second moments.
        quiet: no progress on stderr.
        changes: fields of the recipe to set, such as path="input", unit_norm=True, weights="equal", top=20.

    Returns:
        The finished index, open.

    Raises:
        InputError: run, data or method cannot be used as they are.
        MismatchError: the folder holds an index of something else.
        DiskFullError: no space left; the same call resumes.
    """
    one, columns = _single(run), columns or Columns()
    options = Options(
        max_length=max_length,
        batch_size=batch_size,
        max_bad_rows=max_bad_rows,
        steps=None if steps is None else tuple(steps),
        second_moment=second_moment,
        quiet=quiet,
        columns={name: getattr(columns, name) for name in ("text", "text_pair", "label", "id", "target")},
    )
    recipe = recipe_of(method, **changes)
    examples = read(data, columns=columns, split=split, allow_empty=allow_empty)
    build_index(one, examples, Path(out), recipe, options)
    return Index(out, run=one.path, trust_remote_code=one.trust_remote_code)


def open(path: str | Path, *, run: str | Path | None = None, trust_remote_code: bool = False) -> Index:  # noqa: A001 # the verb that users know
    """Open a finished index; the model is not needed until a new text is asked about.

    Args:
        path: the index.
        run: folder of the run, when it has moved.
        trust_remote_code: allow code that comes with the run's model (an index never allows it by itself).

    Returns:
        The index.

    Raises:
        InputError: there is no finished index.
        DamagedError: it is not what was written.
    """
    return Index(path, run=run, trust_remote_code=trust_remote_code)


def _single(run: Run | str | Path | Sequence[Run | str | Path]) -> Run:
    if isinstance(run, str | Path):
        return Run.from_pretrained(run)
    if isinstance(run, Run):
        return run
    if len(run) != 1:
        raise InputError(f"{len(run)} runs were given: an index joins exactly one run")
    return _single(run[0])
