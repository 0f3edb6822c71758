"""`proponent explain RUN --method replay`: explanations without an index, through the recorded training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proponent.errors import InputError
from proponent.method import Loop
from proponent.method_table import METHODS

if TYPE_CHECKING:
    from proponent.cli.options import OutputOptions
    from proponent.data import Examples
    from proponent.types import Example
    from proponent.views import Explanation


def wanted(method: str | None, data: str | None, given: Mapping[str, object]) -> bool:
    """Whether replay is asked for; refuse options that do not go together."""
    if method is None:
        if data is not None:
            raise InputError("--data belongs to --method replay: an index holds its own training set")
        return False
    loops = [name for name, row in METHODS.items() if isinstance(row.method, Loop)]
    if method not in loops:
        raise InputError(
            f"--method {method!r}: an index holds its own method (`proponent index --method {method}` builds one); "
            f"without an index, a run is explained by {' or '.join(loops)} only"
        )
    if data is None:
        raise InputError(
            f"--method {method} needs --data DATA, the file that the run was trained on, in the same order"
        )
    taken = [name for name, said in given.items() if said]
    if taken:
        raise InputError(f"--method {method} does not take {taken[0]}")
    return True


def explanations(
    run: Path,
    examples: "Examples",
    asked: "Sequence[Example]",
    method: str,
    k: int,
    output: "OutputOptions",
    *,
    baselines: bool,
    trust_remote_code: bool,
) -> "list[Explanation]":
    """Explain the queries by a method that runs or retraces the training."""
    from proponent.dynamics.explain import explain_run
    from proponent.models import Run

    opened = Run.from_pretrained(run, trust_remote_code=trust_remote_code)
    return explain_run(opened, examples, asked, method, k=k, baselines=baselines, quiet=output.quiet, say=output.hint)
