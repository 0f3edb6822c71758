"""An explanation in real notebooks: run by Jupyter and marimo, exported, and checked.

Run by hand, in a separate environment, since neither is a dependency of the project:

    python -m venv nb && nb/bin/pip install . nbclient nbconvert ipykernel marimo
    nb/bin/python benchmarks/notebooks.py INDEX "A text to ask about" [--out benchmarks/results]

A notebook whose last line is an answer is executed by nbclient and exported by nbconvert; `marimo export html` runs
the same lines. Each output must contain the answer's HTML, without script, within 200 KB, and the exported page must
contain it again: every element, attribute and text in order (nbconvert writes attributes in its own order).
"""

import json
import re
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness

LIMIT = 200_000
LINES = """import proponent
index = proponent.open({index!r})
answer = index.explain({text!r}, k=10)
answer"""
CELLS = """import marimo
app = marimo.App()

@app.cell
def _():
{lines}
    return

if __name__ == "__main__":
    app.run()
"""


class Tags(HTMLParser):
    """What a browser would run, whether the answer is there, and all that is in the page, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.runs: list[str] = []
        self.parts: list[str] = []
        self.answers = self.marks = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an element."""
        if tag in {"script", "iframe", "object", "embed"}:
            self.runs.append(tag)
        self.runs += [name for name, _ in attrs if name.startswith("on")]
        self.runs += [str(value) for _, value in attrs if (value or "").strip().lower().startswith("javascript:")]
        self.answers += ("class", "wh-root") in attrs
        self.marks += tag == "mark"
        self.parts.append(" ".join([f"<{tag}", *sorted(f"{name}={value or ''}" for name, value in attrs)]))

    def handle_data(self, data: str) -> None:
        """Take words."""
        self.parts += data.split()

    def within(self, other: "Tags") -> bool:
        """Whether another page holds all of this one, in one piece."""
        return "\n".join(["", *self.parts, ""]) in "\n".join(["", *other.parts, ""])


def found(view: str, page: str) -> dict[str, Any]:
    """Say what a view is like, and that a page holds it; stop where a promise is broken."""
    tags, size = Tags(view), len(view.encode())
    assert tags.answers == 1, "the answer's HTML is not there"
    assert tags.marks > 0, "no word is marked"
    assert tags.runs == [], f"the view can run code: {tags.runs[:5]}"
    assert size <= LIMIT, f"{size:,} bytes are over {LIMIT:,}"
    assert tags.within(Tags(page)), "the exported page does not hold the view as it was made"
    return {"bytes": size, "marks": tags.marks, "script": False, "in the export": True}


def jupyter(lines: str, folder: Path) -> dict[str, Any]:
    """Execute a notebook, and export it."""
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(lines)])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = [one["data"] for one in notebook.cells[0]["outputs"] if one["output_type"] == "execute_result"]
    assert len(shown) == 1, notebook.cells[0]["outputs"]
    page = HTMLExporter().from_notebook_node(notebook)[0]
    (folder / "jupyter.html").write_text(page, encoding="utf-8")
    width = max(len(line) for line in shown[0]["text/plain"].splitlines())
    assert width <= 100, f"the text has lines of {width} characters"
    packages = {name: version(name) for name in ("nbclient", "nbconvert", "ipykernel")}
    return {**packages, **found(shown[0]["text/html"], page), "longest text line": width}


def marimo(lines: str, folder: Path) -> dict[str, Any]:
    """Let marimo run and export the same lines; its view must be the one that stands in Jupyter's page."""
    cell, out = folder / "cells.py", folder / "marimo.html"
    cell.write_text(CELLS.format(lines="\n".join(f"    {line}" for line in lines.splitlines())), encoding="utf-8")
    words = [sys.executable, "-m", "marimo", "export", "html", str(cell), "-o", str(out), "--no-include-code"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    page = out.read_text(encoding="utf-8")
    # the page carries what each cell showed as JSON
    views = [json.loads(one) for one in re.findall(r'"text/html":\s*("(?:[^"\\]|\\.)*")', page)]
    views = [one for one in views if "wh-root" in one]
    assert len(views) == 1, f"{len(views)} views of an answer in marimo's page"
    return {"marimo": version("marimo"), **found(views[0], (folder / "jupyter.html").read_text(encoding="utf-8"))}


def main() -> None:
    """Run both, print and write a dated record."""
    parser = harness.arguments(__doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("text")
    parser.add_argument("--pages", type=Path, help="a folder for the exported pages")
    options = parser.parse_args()
    lines = LINES.format(index=str(options.index.resolve()), text=options.text)
    with tempfile.TemporaryDirectory(prefix="proponent-") as made:
        folder = options.pages or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        record = {"jupyter": jupyter(lines, folder), "marimo": marimo(lines, folder)}
    harness.write_record(options.out, "notebooks", record)


if __name__ == "__main__":
    main()
