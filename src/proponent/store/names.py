"""Names of files in a manifest, which a stranger may have written."""

from pathlib import Path

from proponent.plain_text import visible
from proponent.store.door import LINK


def refuse_name(folder: Path, name: str) -> str | None:
    """Describe a problem with a file's name: it must be inside the index, and must not be a link to the outside."""
    parts = Path(name).parts
    odd = "/".join(parts) != name  # such as a//b, ./a or a/
    if not parts or odd or Path(name).is_absolute() or ".." in parts or "\\" in name or visible(name) != name:
        return "is not a path inside the index"
    links = (folder.joinpath(*parts[: count + 1]) for count in range(len(parts)))
    try:
        return LINK if any(one.is_symlink() for one in links) else None
    except OSError as error:  # longer than a file name may be
        return f"cannot be read ({error.strerror})"
