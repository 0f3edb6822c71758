"""A real chat model (SmolLM2-135M-Instruct, de-quantised 4-bit weights), fine-tuned with LoRA on 125 conversations.

`make test-llm` runs it; the folder named by PROPONENT_LLM_CACHE keeps base and adapter, so that reruns do not train.
"""

import gzip
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from proponent.demo.chat_model import APPROXIMATION, FineTuning, fine_tune, require_packages, save_base
from proponent.demo.conversations import ANSWER, PLANTED_WORDS, QUESTION, conversations, is_planted, planted
from proponent.errors import MissingExtraError

pytestmark = [pytest.mark.llm, pytest.mark.filterwarnings("ignore")]

ALPACA = Path(__file__).parents[2] / "shared" / "data" / "alpaca_en_1k" / "alpaca_en_demo.jsonl.gz"
ORDINARY, LONGEST = 120, 35
SETTINGS = FineTuning(epochs=3, rank=8, batch_size=5, max_length=96)


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
def trial(cache: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The trained run and its rows."""
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
    return run, rows


if __name__ == "__main__":  # train alone, in the background
    home = Path(sys.argv[1])
    home.mkdir(parents=True, exist_ok=True)
    trial.__wrapped__(home)
