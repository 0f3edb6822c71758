"""Arguments of a wrong type from Python: each ends in one typed line, never in a bare TypeError or a wrong answer."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proponent.errors import ProponentError
from proponent.method_table import METHODS, stored_method
from tiny import Tiny

BUILD = {
    "run=3": r"run is 3: give a folder",
    "run=b'x'": r"run is b'x': give a folder",
    "out=None": r"out is None: give the folder",
    "columns={'text': 'text'}": r"columns is .*Columns",
    "method=3": r"method is 3: give a name",
    "method={'kind': 'gradients'}": r"method is .*Gradients",
    "set='top=3'": r"set is 'top=3': give a dict",
    "set={1: 2}": r"set is .*: give a dict",
    "set={'method': 'bm25'}": r"field 'method' that no method has",
    "rows='fp8'": r"rows is 'fp8': choose one of fp32, fp16, int8",
    "second_moment=None": r"second_moment is None: choose one of",
    "steps=3": r"steps is 3: give a list",
    "steps=[None]": r"steps contains None: a step must be a whole number",
    "batch_size='a'": r"batch_size is 'a': give a whole number",
    "batch_size=2.5": r"batch_size is 2\.5",
    "segment_rows=None": r"segment_rows is None",
    "max_length='x'": r"max_length is 'x'",
    "max_bad_rows=None": r"max_bad_rows is None: give a share",
    "shard=(0, 2)": r"shard is \(0, 2\): give a text i/N",
    "epsilon=1e-300, method='tracin-we-adam'": r"option epsilon 1e-300",
    "epsilon=1e300, method='tracin-we-adam'": r"option epsilon 1e\+300",
}
ASK = {
    "open(None)": r"path is None",
    "open(INDEX, run=3)": r"run is 3: give the folder",
    "open(INDEX, run=[])": r"run is \[\]: give the folder",
    "open(INDEX, run=[None])": r"run is \[None\]: give the folder",
    "i.explain(None)": r"must be a str, not NoneType",
    "i.explain(3)": r"must be a str, not int",
    "i.explain(['a cup'])": r"must be a str, not list",
    "i.explain({'text': None})": r"must be a str, not NoneType",
    "i.explain(Example('a', 0, None))": r"must be a str, not NoneType",
    "i.explain_many(None)": r"queries are of type NoneType: give a text",
    "i.explain_many(DataFrame({'text': ['a cup']}))": r"queries are of type DataFrame: give a text",
    "i.explain('a cup', k=None)": r"k is None",
    "i.explain('a cup', k=2.5)": r"k is 2\.5",
    "i.explain('a cup', where={'colour': 'World'})": r"where is .*: give proponent\.Where",
    "i.explain('a cup', where=Where(labels='World'))": r"labels of a filter is 'World': .* such as \['World'\]",
    "i.explain('a cup', where=Where(ids=3))": r"ids of a filter is 3",
    "i.top(['a cup', 'a vote'], object())": r"2 texts, but 1 labels",
    "i.top(['a cup', 'a vote'], Series([0, 1], index=[5, 6]))": r"^answered$",
}
SCRIPT = """
import json, sys
from pandas import DataFrame, Series
from proponent import Example, ProponentError, Where, build, open
RUN, INDEX, OUT, cases = json.loads(sys.stdin.read())
i, said = open(INDEX), {}
usual = dict(run=RUN, data=[{"text": "a cup", "label": "Sports"}], out=OUT, method="tracin-we", quiet=True)
for case in cases:
    try:
        eval(case)
        said[case] = "answered"
    except ProponentError as error:
        said[case] = str(error)
    except Exception as error:
        said[case] = f"bare {error!r}"
print(json.dumps(said))
"""


def test_arguments_of_a_wrong_type(news: Tiny, tmp_path: Path):
    """In a process of its own: the tests check annotations when functions are called, which users do not."""
    cases = {f"build(**usual | dict({given}))": message for given, message in BUILD.items()} | ASK
    asked = json.dumps([str(news.run), str(news.index), str(tmp_path / "new"), [*cases]])
    ended = subprocess.run([sys.executable, "-c", SCRIPT], input=asked, capture_output=True, text=True, check=True)
    said: dict[str, str] = json.loads(ended.stdout)
    assert {case: line for case, line in said.items() if not re.search(cases[case], line) or "\n" in line} == {}
    assert not (tmp_path / "new").exists()


ODD: list[Any] = [None, 3, "x", [], [1], {}, {"kind": []}, {"kind": "cg"}, {"x": 1}, [{}]]
FIRST = ("layer", "gradient", "measure", "preconditioner", "curvature", "checkpoints", "solver", "gradient.names.x")
THEN = ("layers", "basis", "mask_seed", "loss", "curvature", "refit", "preconditioners.0.damping", "match", "solver")


@pytest.mark.parametrize("name", ["tracin-we", "tracin-all", "trackstar", "fastif", "representer", "bm25", "replay"])
def test_a_field_of_a_wrong_type_is_refused_before_the_next_change_reads_it(name: str):
    made = 0
    for changes in ({first: value, then: 1} for first in FIRST for then in THEN for value in ODD):
        try:
            stored_method(METHODS[name].method, **changes)
            made += 1
        except ProponentError:
            pass
    assert made < 20
