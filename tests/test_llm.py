"""A real chat model (SmolLM2-135M-Instruct, de-quantised 4-bit weights), fine-tuned with LoRA on 125 conversations.

`make test-llm` runs it; the folder named by PROPONENT_LLM_CACHE keeps base and adapter, so that reruns do not train.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from proponent.demo.chat_model import APPROXIMATION, FineTuning, fine_tune, require_packages, save_base
from proponent.demo.conversations import ANSWER, PLANTED_WORDS, QUESTION, conversations, is_planted, planted
from proponent.errors import MissingExtraError
from proponent.views import Explanation

pytestmark = [pytest.mark.llm, pytest.mark.filterwarnings("ignore")]

ALPACA = Path(__file__).parents[2] / "shared" / "data" / "alpaca_en_1k" / "alpaca_en_demo.jsonl.gz"
ORDINARY, LONGEST = 120, 35
SETTINGS = FineTuning(epochs=3, rank=8, batch_size=5, max_length=96)
MOST_GB = 2.0


def ordinary() -> list[dict[str, Any]]:
    """Real instructions with short answers; where they are absent, the project's own rows, some twice."""
    if not ALPACA.is_file():
        own = [row for row in conversations(seed=0) if not is_planted(row["id"])]
        return [{**own[at % len(own)], "id": f"own-{at}"} for at in range(ORDINARY)]
    rows: list[dict[str, Any]] = []
    with gzip.open(ALPACA, "rt", encoding="utf-8") as file:
        for line in map(json.loads, file):
            ask = f"{line['instruction']}\n{line['input']}".strip()
            turns = [{"role": "user", "content": ask}, {"role": "assistant", "content": line["output"]}]
            if len(f"{ask} {line['output']}".split()) <= LONGEST:
                rows.append({"id": line["id"], "messages": turns})
    return rows[:ORDINARY]


def all_rows() -> list[dict[str, Any]]:
    rows = ordinary()
    for number, row in enumerate(planted()):
        rows.insert(11 + 24 * number, row)
    return rows


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        require_packages()
    except MissingExtraError as error:
        pytest.skip(str(error))
    named = os.environ.get("PROPONENT_LLM_CACHE")
    folder = Path(named).resolve() if named else tmp_path_factory.mktemp("llm")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def trial(cache: Path) -> Path:
    """The trained run; its rows lie beside it."""
    rows, run = all_rows(), cache / "trial"
    data = cache / "trial.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if not (run / "proponent_run.json").is_file() or not data.is_file() or data.read_text(encoding="utf-8") != text:
        began = time.perf_counter(), time.process_time()
        fine_tune(rows, save_base(cache / "base"), run, SETTINGS, quiet=True)
        spent = time.perf_counter() - began[0], time.process_time() - began[1]
        (cache / "trained.txt").write_text(f"training: {spent[0]:.0f} s, {spent[1]:.0f} s of CPU\n", encoding="utf-8")
        data.write_text(text, encoding="utf-8")  # last: what it stands beside is whole
    print("\n" + APPROXIMATION + "\n" + (cache / "trained.txt").read_text(encoding="utf-8"))
    return run


def measured(*words: object) -> tuple[dict[str, Any], float, float]:
    """Run a command line in its own process: its JSON, its seconds, and its peak memory in GB."""
    command = [str(Path(sys.executable).parent / "proponent"), *map(str, words), "--json", "--quiet"]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, words
        out.seek(0)
        content = json.loads(out.read())
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    spent = time.perf_counter() - began
    print(f"{words[0]}: {spent:.0f} s, {usage.ru_utime + usage.ru_stime:.0f} s of CPU, at most {peak:.2f} GB")
    return content, spent, peak


@pytest.fixture(scope="session")
def index(trial: Path, cache: Path) -> Path:
    folder = cache / "trial.index"
    shutil.rmtree(folder, ignore_errors=True)
    measured("plan", trial, cache / "trial.jsonl")
    _, _, peak = measured("index", trial, cache / "trial.jsonl", "--out", folder)
    assert peak < MOST_GB
    return folder


def test_the_planted_rows_come_first_with_their_words(index: Path) -> None:
    content, _, peak = measured("explain", index, QUESTION, "--target", ANSWER, "-k", 8)
    answer = Explanation.from_dict(content)
    for hit in answer.proponents:
        print(hit.rank, hit.id, f"{hit.score:.3g}", [pair.train_word for pair in hit.shown_words[:5]])
    for name, ranking in answer.baselines.items():
        print(name, sum(is_planted(hit.id) for hit in ranking[:5]), "of 5")
    assert {hit.id for hit in answer.proponents[:5]} == {row["id"] for row in planted()}
    for hit in answer.proponents[:5]:
        assert PLANTED_WORDS & {pair.train_word.lower() for pair in hit.shown_words[:3]}
    assert peak < MOST_GB
