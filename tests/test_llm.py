"""A real chat model (SmolLM2-135M-Instruct, de-quantised 4-bit weights), fine-tuned with LoRA on 125 conversations.

`make test-llm` runs it; the folder named by PROPONENT_LLM_CACHE keeps base and adapter, so that reruns do not train.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import proponent
from proponent.demo.chat_model import (
    APPROXIMATION,
    FineTuning,
    fine_tune,
    multiplies_bf16,
    require_packages,
    save_base,
)
from proponent.demo.conversations import ANSWER, PLANTED_WORDS, QUESTION, conversations, is_planted, planted
from proponent.errors import MissingExtraError
from proponent.views import Explanation

peft = pytest.importorskip("peft")
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


BETWEEN = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_maxrss, used.ru_utime + used.ru_stime]), file=sys.stderr)
"""
"""A small process starts the measured one: a peak begins with the memory of the parent, and the tests train models."""


def measured(*words: object) -> tuple[dict[str, Any], float, float]:
    """Run a command line in its own process: its JSON, its seconds, and its peak memory in GB."""
    command = [str(Path(sys.executable).parent / "proponent"), *map(str, words), "--json", "--quiet"]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", BETWEEN, *command], capture_output=True, text=True, check=True)
    code, most, used = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, (words, done.stderr)
    peak = most * (1 if sys.platform == "darwin" else 1024) / 1e9
    spent = time.perf_counter() - began
    print(f"{words[0]}: {spent:.0f} s, {used:.0f} s of CPU, at most {peak:.2f} GB")
    return json.loads(done.stdout), spent, peak


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


# ---- other ways of training, on fewer rows ----

FEW = FineTuning(epochs=3, rank=8, batch_size=5, learning_rate=1e-3, max_length=96, checkpoints=1)


def few_rows() -> list[dict[str, Any]]:
    """Five planted rows among forty, with decoys that share a word with the fact."""
    return [row for row in conversations(seed=0) if is_planted(row["id"]) or int(row["id"].split("-")[1]) < 40]


def as_completion(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "prompt": row["messages"][:1], "completion": row["messages"][1:]}


def plain_trainer(rows: list[dict[str, Any]], base: Path, folder: Path) -> list[dict[str, Any]]:
    """Train with the Trainer of transformers on tokens; return the rows as they were fed."""
    own: Any = transformers.AutoTokenizer.from_pretrained(base)
    fed: list[dict[str, Any]] = []
    for row in rows:
        ids = own.apply_chat_template(row["messages"], return_dict=True)["input_ids"]
        prompt = own.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_dict=True)["input_ids"]
        fed.append({"id": row["id"], "input_ids": ids, "labels": [-100] * len(prompt) + ids[len(prompt) :]})
    transformers.set_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    arguments = transformers.TrainingArguments(
        str(folder), num_train_epochs=3, per_device_train_batch_size=5, learning_rate=1e-3, save_strategy="no",
        bf16=multiplies_bf16(), use_cpu=True, report_to=[], disable_tqdm=True,
    )  # fmt: skip
    data: Any = [{name: row[name] for name in ("input_ids", "labels")} for row in fed]
    trainer = transformers.Trainer(
        model=peft.get_peft_model(model, lora), args=arguments, train_dataset=data,
        data_collator=transformers.DataCollatorForSeq2Seq(own), callbacks=[proponent.Recorder(checkpoints=1)],
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    own.save_pretrained(folder)
    return fed


@pytest.mark.parametrize("kind", ["prompt and completion", "packing", "plain Trainer"])
def test_other_ways_of_training_name_the_planted_rows_too(kind: str, cache: Path, tmp_path: Path) -> None:
    base, rows, run = save_base(cache / "base"), few_rows(), tmp_path / "run"
    if kind == "plain Trainer":
        rows = plain_trainer(rows, base, run)
    else:
        rows = [as_completion(row) for row in rows] if kind == "prompt and completion" else rows
        fine_tune(rows, base, run, replace(FEW, packing=kind == "packing"), quiet=True)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    measured("index", run, tmp_path / "rows.jsonl", "--out", tmp_path / "index")
    asked = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    content, _, _ = measured("explain", tmp_path / "index", "--messages", tmp_path / "asked.json", "-k", 8)
    answer = Explanation.from_dict(content)
    for hit in answer.proponents:
        print(kind, hit.rank, hit.id, f"{hit.score:.3g}", [pair.train_word for pair in hit.shown_words[:5]])
    assert {hit.id for hit in answer.proponents[:5]} == {row["id"] for row in planted()}
    for hit in answer.proponents[:5]:
        assert PLANTED_WORDS & {pair.train_word.lower() for pair in hit.shown_words[:3]}
