"""Errors as a tree, each with its exit code.

ProponentError
├── InputError        2   the user's data, options or run folder cannot be used as they are
│   ├── DataError         a row, a column, a file of examples
│   ├── LabelError        a label that the run does not know
│   ├── RunError          a folder that is not a usable training run
│   ├── DivergedError     an iteration that diverges or cannot end
│   ├── MissingExtraError an optional package is not installed
│   └── BucketError  75   a bucket that cannot be reached now; what is finished is kept
├── MismatchError     3   parts that do not belong together (index, run, data, method)
├── DamagedError      4   an index whose files are missing, truncated or changed
└── DiskFullError    74   no space left; finished shards stay on disk and the build resumes

A message names the object in the user's words, the likely cause and the fix, in one line.
"""

from proponent.plain_text import one_line
from proponent.shown_places import as_shown


class ProponentError(Exception):
    """Base class of every error that proponent raises on purpose; its message is one line of plain text."""

    exit_code: int = 2

    def __str__(self) -> str:
        return one_line(as_shown(super().__str__()))  # names of files, labels and columns may come from a stranger


class InputError(ProponentError):
    """Input or options that cannot be used as they are."""


class DataError(InputError):
    """A file of examples that cannot be read, or a row or column that cannot be used."""


class LabelError(InputError):
    """A label that the run's task head does not know."""


class RunError(InputError):
    """A folder that is not a usable training run."""


class DivergedError(InputError):
    """An iteration that diverges or cannot end, for a reason that another setting fixes."""


class MissingExtraError(InputError):
    """An optional package that the request needs is not installed."""


class BucketError(InputError):
    """A bucket that cannot be reached, or not with the credentials that there are; the same command goes on."""

    exit_code = 75


class MismatchError(ProponentError):
    """Parts that do not belong together: index, run, data or method differ."""

    exit_code = 3


class DamagedError(ProponentError):
    """An index whose files are missing, truncated or changed."""

    exit_code = 4


class DiskFullError(ProponentError):
    """No space left on the device; finished shards stay on disk and the build can resume."""

    exit_code = 74


def first_line(error: BaseException) -> str:
    """Shorten a message of another library to one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return f"{lines[0]} {lines[1]}"
    return lines[0] if lines else type(error).__name__
