"""What `proponent explain RUN --method replay` does: answers without an index, through the recorded training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proponent.cli import options
from proponent.cli.output import hint
from proponent.errors import InputError
from proponent.method import Loop
from proponent.method_table import METHODS

if TYPE_CHECKING:
    from proponent.data import Columns
    from proponent.types import Example
    from proponent.views import Explanation


def wanted(method: str | None, data: str | None, given: Mapping[str, object]) -> bool:
    """Say whether somebody asks for replay; refuse words that do not go together."""
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


def answers(
    run: Path,
    method: str,
    data: str,
    asked: "Sequence[Example]",
    named: "Columns",
    split: str | None,
    k: int,
    *,
    baselines: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> "list[Explanation]":
    """Replay a run and answer."""
    from proponent.dynamics.explain import explain_run
    from proponent.models import Run

    examples = options.read_data(data, named, split, quiet=quiet)
    opened = Run.from_pretrained(run, trust_remote_code=trust_remote_code)
    return explain_run(
        opened, examples, asked, method, k=k, baselines=baselines, quiet=quiet, say=lambda line: hint(line, quiet=quiet)
    )
