"""A stranger's files: seeds of every kind that is read, ways to spoil them, and the enemies' files by name.

Run as a script it writes the enemies' files: `python tests/enemies.py FOLDER`.
"""

import contextlib
import gzip
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

import faults
import hostile_watch
import runs
from answers import make_answer
from proponent.actions.decisions import Decisions
from proponent.data import StoredExamples, read
from proponent.errors import ProponentError
from proponent.models import Run
from proponent.models.change_record import read_changes
from proponent.models.training_trace import read_training_trace
from proponent.store import Manifest, Plan, Store, delete, merge, verify
from proponent.store.checksums import sums_of
from proponent.store.inventory import inventory
from proponent.store.manifest import canonical, merkle_root, read_json
from proponent.store.mapped import MappedTensors
from proponent.tensors import read_tensors, write_tensors
from proponent.web.questions import Questions
from proponent.web.states import Question
from proponent.web.table import ExampleTable

CONTROLS = "\x1b]52;c;cHduZWQ=\x07\x1b[2J\x1b]0;owned\x07\x9b2J\u202e\u200b"
"""OSC 52 (the clipboard), CSI 2J (clears), OSC 0 (the title), C1, bidi, zero width."""

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, -5, 2**31 - 1, 2**31, 2**63, 10**9, 10**12, 10**30, -(10**30)),
    *(0.5, 1e308, float("inf"), float("nan"), -0.0),
    *("", "x" * 5000, "\0", "\ud800", "../bait/x.safetensors", "../bait", "/etc/passwd", "..", "weights.bin", CONTROLS),
    *("somebody/model", "https://example.com/x", "kernels-community/evil", "flash_attention_2", "sdpa", "a.b:C", "-"),
    *([], {}, [[]], [1, 2, 3], {"a": 1}, [None] * 50, {"": {"": {}}}, "__import__('os').system('true')"),
    *("TestSomethingForCausalLM", "BertForSequenceClassification", "GPT2LMHeadModel", "T5Tokenizer", "mamba"),
)

NAMES = (
    *("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation", "transformers_weights"),
    *("quantization_config", "num_labels", "id2label", "architectures", "tokenizer_class", "tokenizer_file"),
    *("vocab_file", "fast_tokenizer_files", "base_model_name_or_path", "revision", "init_lora_weights", "r", "to_dict"),
    *("use_pretrained_backbone", "backbone", "text_config", "vision_config", "torch_dtype", "dtype", "model_type"),
    *("chat_template", "_name_or_path", "name_or_path", "weight_map", "global_step", "log_history", "__class__"),
)


# ---- ways to spoil ----


def spoil_bytes(chance: random.Random, data: bytes) -> bytes:
    """Change some bytes: bits, runs, cuts, copies, numbers at the edges of their range."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 32))):
        at = chance.randrange(len(found) + 1)
        way = chance.randrange(7)
        if way == 0 and found:
            found[at % len(found)] ^= 1 << chance.randrange(8)
        elif way == 1:
            del found[at : at + chance.choice((1, 4, 64, 4096))]
        elif way == 2:
            found[at:at] = chance.randbytes(chance.choice((1, 4, 64)))
        elif way == 3:
            found[at:at] = found[at : at + chance.choice((1, 16, 1024))]
        elif way == 4:
            number = chance.choice((0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, 2**40))
            size = chance.choice((1, 2, 4, 8))
            found[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, chance.choice(("little", "big")))
        elif way == 5:
            found[at : at + 8] = chance.choice((b"\xff" * 8, b"\0" * 8, b'"' * 8, b"[" * 8, b"{" * 8, b"\n" * 8))
        else:
            del found[at:]
    return bytes(found)


def spoil_tree(chance: random.Random, tree: Any) -> Any:
    """Change some values and names of a JSON tree."""
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        tree = _spoil_one(chance, tree, 0)
    return tree


def _spoil_one(chance: random.Random, tree: Any, depth: int) -> Any:
    if isinstance(tree, dict) and tree and chance.random() < 0.9 - 0.1 * depth:
        key = chance.choice(list(tree))
        way = chance.randrange(8)
        if way == 0:
            return {name: value for name, value in tree.items() if name != key}
        if way == 1:
            return tree | {chance.choice(NAMES): chance.choice(NASTY)}
        if way == 2:
            return {(str(chance.choice(NASTY))[:50] if name == key else name): value for name, value in tree.items()}
        return tree | {key: _spoil_one(chance, tree[key], depth + 1)}
    if isinstance(tree, list) and tree and chance.random() < 0.9:
        at = chance.randrange(len(tree))
        if chance.random() < 0.2:
            return tree * chance.choice((0, 2, 3))
        return [*tree[:at], _spoil_one(chance, tree[at], depth + 1), *tree[at + 1 :]]
    return chance.choice(NASTY)


def spoil_json(chance: random.Random, data: bytes) -> bytes:
    """Change a JSON file as a tree, or as bytes."""
    if chance.random() < 0.3:
        return spoil_bytes(chance, data)
    try:
        tree = spoil_tree(chance, json.loads(data))
    except ValueError:
        return spoil_bytes(chance, data)
    text = json.dumps(tree).replace("Infinity", chance.choice(("Infinity", "1e999"))).encode()
    return text.replace(b"{}", b"[" * 900 + b"]" * 900, 1) if chance.random() < 0.02 else text


def spoil_lines(chance: random.Random, data: bytes) -> bytes:
    """Change one line of JSON among several."""
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    lines[at] = spoil_json(chance, lines[at]) if lines[at] else lines[at]
    return b"\n".join(lines)


def spoil_tensors(chance: random.Random, data: bytes) -> bytes:
    """Change the header of a safetensors file as a tree, or the file as bytes."""
    size = int.from_bytes(data[:8], "little")
    if chance.random() < 0.4 or size > len(data) - 8:
        return spoil_bytes(chance, data)
    head = spoil_json(chance, data[8 : 8 + size])
    return len(head).to_bytes(8, "little") + head + data[8 + size :]


def spoil_packed(chance: random.Random, data: bytes) -> bytes:
    """Change a file of gzip, or what is in it."""
    if chance.random() < 0.5:
        return spoil_bytes(chance, data)
    return gzip.compress(spoil_bytes(chance, gzip.decompress(data)))


# ---- targets: one for each parser ----


@dataclass
class Target:
    """A parser with whole files to begin with."""

    seeds: Callable[[Path], list[Path]]  # writes files into a folder
    parse: Callable[[Path], object]  # reads one
    spoil: Callable[[random.Random, bytes], bytes]


@dataclass
class Figures:
    """What a fuzz found."""

    inputs: int = 0
    refused: int = 0
    read: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list[str])


def fuzz(name: str, folder: Path, seconds: float, seed: int, most: int = 10**9) -> Figures:
    """Spoil the seeds of a target for some seconds; every failure is told with its input's number."""
    target, figures = TARGETS[name], Figures()
    folder.mkdir(parents=True, exist_ok=True)
    seeds = target.seeds(folder)
    whole = {path: path.read_bytes() for path in seeds}
    for path in seeds:  # a control: what is whole is read
        target.parse(path)
    bait = bait_beside(folder)
    end = time.monotonic() + seconds
    while time.monotonic() < end and figures.inputs < most:
        chance = random.Random(f"{name} {seed} {figures.inputs}")
        path = seeds[figures.inputs % len(seeds)]
        path.write_bytes(target.spoil(chance, whole[path]))
        began = time.process_time()
        with hostile_watch.watched(folder, bait=bait) as noticed:
            try:
                target.parse(path)
                figures.read += 1
            except ProponentError as error:
                figures.refused += 1
                figures.failures += [f"{figures.inputs}: {one}" for one in faults_of_message(str(error))]
            except Exception as error:  # that is what is looked for
                figures.failures.append(f"{figures.inputs}: {type(error).__name__}: {str(error)[:200]}")
            figures.failures += [f"{figures.inputs}: {one}" for one in noticed()]
        figures.slowest = max(figures.slowest, time.process_time() - began)
        path.write_bytes(whole[path])
        figures.inputs += 1
    bait.close()
    return figures


def faults_of_message(said: str) -> list[str]:
    """What is wrong with the message of an error: it must be one plain line."""
    plain = len(said.splitlines()) == 1 and not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in said)
    return [] if plain else [f"a message that is no plain line: {said[:200]!r}"]


def bait_beside(folder: Path) -> hostile_watch.Bait:
    """Files outside of a folder, which the enemies' files name."""
    bait = folder.parent / "bait"
    bait.mkdir(exist_ok=True)
    for name in ("x.safetensors", "x.arrow", "config.json", "tokenizer.json", "secret.txt", "x.py"):
        (bait / name).write_bytes(b"bait")
    return hostile_watch.Bait(bait)


def index_folder(folder: Path) -> Path:
    """An index of two sources, one example deleted."""
    path = folder / "index"
    if not path.exists():
        for job in ({"do": "build"}, {"do": "append"}, {"do": "delete"}):
            faults.change(path, job)
    return path


def _one(name: str) -> Callable[[Path], list[Path]]:
    return lambda folder: [index_folder(folder) / name]


def _stored_examples(path: Path) -> None:
    found = StoredExamples(path)
    for name in found.names:
        found.column(name)
        found.has(name)
    if len(found):
        found.row(len(found) - 1)
        found.take("text", np.arange(min(3, len(found))))
        found.lengths("text", np.arange(min(3, len(found))))
        found.counts("source")


def _tensor_seeds(folder: Path) -> list[Path]:
    path = folder / "a.safetensors"
    write_tensors(path, {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.zeros(0, dtype=np.int64)})
    return [path]


def _tensors(path: Path) -> None:
    found = MappedTensors(path)
    found.all()
    read_tensors(path)


def model_folder(folder: Path) -> Path:
    """A small classifier with its tokenizer."""
    path = folder / "model"
    if not path.exists():
        tokenizer = runs.bert_tokenizer()
        runs.bert(tokenizer).save_pretrained(path)
        tokenizer.save_pretrained(path)
        state = {"global_step": 8, "log_history": [{"step": 8, "learning_rate": 1e-3, "loss": 1.0}]}
        (path / "trainer_state.json").write_text(json.dumps(state))
        record = {"version": 1, "step": 8, "learning_rate": 1e-3, "seed": 0, "training": "a"}
        (path / "proponent_recorder.json").write_text(json.dumps(record))
        run = {"initial": "fresh", "finished": True, "optim": "adamw_torch", "sft": {"template": None}}
        (path / "proponent_run.json").write_text(json.dumps(run))
        card = (
            "---\ntags:\n- trl\n- sft\nlabel_smoothing_factor: 0\n---\n\naxolotl version: `0.1`\n```yaml\na: 1\n```\n"
        )
        (path / "README.md").write_text(card)
    return path


def opened(folder: Path, *, weights: bool = True) -> None:
    """Open a run as every command does, and load its model."""
    run = Run.from_pretrained(folder)
    run.fingerprints  # noqa: B018
    if weights:
        run.load(run.checkpoints[-1])
    for look in (read_training_trace, read_changes):
        with contextlib.suppress(ProponentError):
            look(folder)


def _model_seeds(*names: str) -> Callable[[Path], list[Path]]:
    return lambda folder: [model_folder(folder) / name for name in names if (model_folder(folder) / name).is_file()]


ROWS = [
    {"id": f"r{n}", "text": f"the {w} of the week, {n}", "label": "ab"[n % 2]} for n, w in enumerate(["cup", "vote"])
]
CHAT = [
    {
        "messages": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hi", "tool_calls": [{"name": "a", "arguments": {"b": [1]}}]},
        ]
    }
]


def _csv_seeds(folder: Path) -> list[Path]:
    text = "id,text,label\n" + "".join(f'{one["id"]},"{one["text"]}",{one["label"]}\n' for one in ROWS)
    (folder / "a.csv").write_text(text)
    (folder / "a.tsv").write_text(text.replace(",", "\t"))
    (folder / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    return [folder / "a.csv", folder / "a.tsv", folder / "a.csv.gz"]


def _json_seeds(folder: Path) -> list[Path]:
    (folder / "a.json").write_text(json.dumps(ROWS))
    (folder / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in ROWS))
    (folder / "chat.jsonl").write_text("".join(json.dumps(one) + "\n" for one in CHAT))
    return [folder / "a.json", folder / "a.jsonl", folder / "chat.jsonl"]


def _parquet_seeds(folder: Path) -> list[Path]:
    table = pa.table({name: [one[name] for one in ROWS] for name in ROWS[0]})
    parquet.write_table(table, folder / "a.parquet", compression="zstd", write_page_checksum=True)
    parquet.write_table(table, folder / "b.parquet", use_dictionary=False, compression="none")
    parquet.write_table(pa.Table.from_pylist(CHAT), folder / "chat.parquet", data_page_version="2.0")
    return [folder / name for name in ("a.parquet", "b.parquet", "chat.parquet")]


def _arrow_seeds(folder: Path) -> list[Path]:
    table = pa.table({name: [one[name] for one in ROWS] for name in ROWS[0]})
    found: list[Path] = []
    for name, make in (("a", pa.ipc.new_file), ("b", pa.ipc.new_stream)):
        for compression in (None, "zstd"):
            path = folder / f"{name}{compression or ''}.arrow"
            with make(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
                writer.write_table(table)
            found.append(path)
    path = folder / "views.arrow"
    views = pa.table({"text": pa.array([one["text"] for one in ROWS], pa.string_view()), "n": [[1], [2]]})
    with pa.ipc.new_file(str(path), views.schema) as writer:
        writer.write_table(views)
    return [*found, path]


def data_read(path: Path) -> None:
    """Read a data file, and every example of it."""
    found = read(path)
    list(found)
    found.fingerprint  # noqa: B018


def data_seeds(folder: Path) -> list[Path]:
    """Data files of every kind, and a folder that `datasets` saved."""
    found = [*_csv_seeds(folder), *_json_seeds(folder), *_parquet_seeds(folder), *_arrow_seeds(folder)]
    datasets = import_module("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    return [*found, folder / "saved"]


def adapter_folder(folder: Path) -> Path:
    """A LoRA adapter over the small classifier."""
    path, base = folder / "adapter", model_folder(folder)
    if not path.exists():
        peft, transformers = import_module("peft"), import_module("transformers")
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
        settings = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
        made = peft.get_peft_model(model, settings)
        made.save_pretrained(path)
        held = json.loads((path / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(base)}
        (path / "adapter_config.json").write_text(json.dumps(held))
    return path


def index_readers(folder: Path) -> list[Callable[[], object]]:
    """What commands and the explorer do with an index that somebody else made; the last ones change it."""
    return [
        lambda: [_raised(one) for one in faults.answers(folder, allow_missing=True).values()],
        lambda: faults.answers(folder, partial=True),
        lambda: verify(folder),
        lambda: inventory(Store(folder)),
        lambda: ExampleTable(Store(folder)).whole.lengths,
        lambda: _decisions(folder.with_name("index.decisions.jsonl")),
        lambda: Questions(folder, "root").get(QUESTION),
        lambda: Questions(folder, "root").list(),
        lambda: delete(folder, np.asarray([0])),
        lambda: merge(folder, rows=1000),
    ]


def _raised(answer: object) -> None:
    if isinstance(answer, Exception):
        raise answer


# ---- whole folders ----

STRUCTURE = 0.35
"""How often a file is replaced by something that is no file of its kind."""


def spoil_folder(chance: random.Random, folder: Path) -> list[str]:
    """Spoil one to three files of a folder; returns their names."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    chosen = chance.sample(paths, min(len(paths), chance.choice((1, 1, 2, 3))))
    for path in chosen:
        if chance.random() < STRUCTURE:
            replace_file(chance, path)
        else:
            spoil_file(chance, path)
    return [path.relative_to(folder).as_posix() for path in chosen]


def spoil_file(chance: random.Random, path: Path) -> None:
    """Change the contents of a file, as its kind suggests."""
    data = path.read_bytes()
    spoil = {
        ".json": spoil_json,
        ".jsonl": spoil_lines,
        ".safetensors": spoil_tensors,
        ".gz": spoil_packed,
    }.get(path.suffix, spoil_bytes)
    path.write_bytes(spoil(chance, data))


def replace_file(chance: random.Random, path: Path) -> None:
    """Put a link out of the folder, a pipe, a folder, an empty file or one of gigabytes in place of a file."""
    bait = next(one for one in (parent / "bait" for parent in path.parents) if one.is_dir())
    data = path.read_bytes()
    path.unlink()
    way = chance.randrange(8)
    if way == 0:
        path.symlink_to(bait / chance.choice(("x.safetensors", "config.json", "secret.txt", "x.arrow")))
    elif way == 1:
        path.symlink_to(chance.choice(("/dev/zero", "/etc/passwd", "/proc/self/environ", path.name, "nowhere")))
    elif way == 2 and hasattr(os, "mkfifo"):
        os.mkfifo(path)
    elif way == 3:
        path.mkdir()
    elif way == 4:
        path.write_bytes(data)
        os.truncate(path, 3 * 2**30)
    elif way == 5:
        path.write_bytes(b"")
    elif way == 6 and path.parent != bait.parent / "home":
        path.write_bytes(data)
        home = path.parent
        moved = bait / f"moved-{len(list(bait.iterdir()))}"
        home.rename(moved)
        home.symlink_to(moved)
    # else it is missing


def put_right(folder: Path, names: Sequence[str]) -> None:
    """Put the sums and the seal of an index right, so that what reads behind them is reached."""
    path = folder / "manifest.json"
    if not path.is_file() or path.stat().st_size > 2**20:  # a pipe in its place would never end
        return
    try:
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
        files = dict(manifest.files)
        for name in names:
            if name in files and (folder / name).is_file() and (folder / name).stat().st_size < 2**20:
                files[name] = sums_of([(folder / name).read_bytes()])
        sealed = manifest.model_copy(update={"files": files, "merkle_root": merkle_root(files)}).sealed()
        (folder / "manifest.json").write_text(canonical(sealed.model_dump()) + "\n", encoding="utf-8")
    except (OSError, ValueError, TypeError):
        return  # the manifest itself is spoilt


def _decision_seeds(folder: Path) -> list[Path]:
    index = index_folder(folder)
    decisions = Decisions.of(Store(index))
    if not decisions.path.exists():
        decisions.decide(["base-0", "base-1"], "fix", ["a", "b"])
        decisions.decide(["base-3"], "drop")
        decisions.undo()
    return [decisions.path]


def _decisions(path: Path) -> None:
    found = Decisions.of(Store(path.parent / "index"))
    assert found.path == path
    found.last  # noqa: B018


QUESTION = Question(text="the cup", label="a")


def _answer_seeds(folder: Path) -> list[Path]:
    index = index_folder(folder)
    questions = Questions(index, "root")
    questions.put(QUESTION, {"answer": make_answer().to_dict(), "n_examples": 20, "groups": {"label": []}}, 1.0)
    return [questions.folder / f"{questions.identity(QUESTION)}.json"]


def _answers(path: Path) -> None:
    questions = Questions(path.parent.with_name("index"), "root")
    questions.get(QUESTION)


def _list_seeds(folder: Path) -> list[Path]:
    return [_answer_seeds(folder)[0].parent / "questions.jsonl"]


def _list(path: Path) -> None:
    Questions(path.parent.with_name("index"), "root").list()


TARGETS: dict[str, Target] = {
    "manifest": Target(_one("manifest.json"), lambda path: read_json(path, Manifest), spoil_json),
    "plan": Target(_one("plan.json"), lambda path: read_json(path, Plan), spoil_json),
    "Parquet of an index": Target(_one("examples/seg-00000.parquet"), _stored_examples, spoil_bytes),
    "safetensors": Target(_tensor_seeds, _tensors, spoil_tensors),
    "model config": Target(
        _model_seeds("config.json", "trainer_state.json", "proponent_recorder.json", "proponent_run.json"),
        lambda path: opened(path.parent, weights=path.name == "config.json"),
        spoil_json,
    ),
    "tokenizer": Target(
        _model_seeds("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"),
        lambda path: opened(path.parent, weights=False),
        spoil_json,
    ),
    "model card": Target(_model_seeds("README.md"), lambda path: opened(path.parent, weights=False), spoil_bytes),
    "CSV": Target(
        _csv_seeds,
        data_read,
        lambda chance, data: (spoil_packed if data[:2] == b"\x1f\x8b" else spoil_bytes)(chance, data),
    ),
    "JSON": Target(
        _json_seeds, data_read, lambda chance, data: (spoil_json if data[:1] == b"[" else spoil_lines)(chance, data)
    ),
    "Parquet": Target(_parquet_seeds, data_read, spoil_bytes),
    "Arrow": Target(_arrow_seeds, data_read, spoil_bytes),
    "decisions": Target(_decision_seeds, _decisions, spoil_lines),
    "stored answers": Target(_answer_seeds, _answers, spoil_json),
    "list of answers": Target(_list_seeds, _list, spoil_lines),
}


# ---- files that unfold ----


def _same_text(rows: int, size: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array(["x" * size]))


def _long_text(path: Path) -> None:
    table = pa.table({"id": [str(at) for at in range(4096)], "text": _same_text(4096, 48 * 2**20)})
    parquet.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30, store_schema=False)


def _packed_csv(path: Path) -> None:
    with gzip.open(path, "wb") as file:
        file.write(b"id,text\n1,")
        for _ in range(600):
            file.write(b"x" * 2**20)


def _arrow_file(path: Path, table: Any, compression: str | None, make: Any = pa.ipc.new_stream) -> None:
    with make(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)


BOMBS: dict[str, Callable[[Path], None]] = {
    "one-long-text.parquet": _long_text,
    "rows-of-nothing.parquet": lambda path: parquet.write_table(pa.table({"text": pa.nulls(40_000_000)}), path),
    "packed.csv.gz": _packed_csv,
    "packed.arrow": lambda path: _arrow_file(path, pa.table({"id": ["1"], "text": ["x" * (600 * 2**20)]}), "zstd"),
    "packed-file.arrow": lambda path: _arrow_file(
        path, pa.table({"id": ["1"], "text": ["x" * (600 * 2**20)]}), "zstd", pa.ipc.new_file
    ),
    "repeated-file.arrow": lambda path: _arrow_file(
        path, pa.table({"text": _same_text(4096, 2**20)}), None, pa.ipc.new_file
    ),
    "many-rows.parquet": lambda path: parquet.write_table(
        pa.table({"text": _same_text(2_000_000, 4000)}), path, store_schema=False
    ),
    "repeated.arrow": lambda path: _arrow_file(path, pa.table({"text": _same_text(4096, 2**20)}), None),
}
"""Files of some kilobytes that stand for gigabytes."""


def write_corpus(folder: Path, each: int = 50) -> None:
    """Write the enemies' files: spoilt files for every parser, those that unfold, links and a pipe."""
    for name, target in TARGETS.items():
        home = folder / name.replace(" ", "-")
        home.mkdir(parents=True)
        for path in target.seeds(home):
            whole = path.read_bytes()
            for number in range(each):
                made = target.spoil(random.Random(f"{name} {path.name} {number}"), whole)
                path.with_name(f"{number:03d}-{path.name}").write_bytes(made)
    bait_beside(folder / "bombs").close()
    bombs = folder / "bombs"
    bombs.mkdir()
    for name, make in BOMBS.items():
        make(bombs / name)
    (bombs / "link.csv").symlink_to("../bait/secret.txt")
    if hasattr(os, "mkfifo"):
        os.mkfifo(bombs / "pipe.csv")
    with (bombs / "plan.json").open("wb") as file:
        file.truncate(3 * 2**30)


if __name__ == "__main__":
    write_corpus(Path(sys.argv[1]))
