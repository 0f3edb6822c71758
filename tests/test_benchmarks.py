"""Scripts under benchmarks/ go through the public API, or say why they do not; every one of them runs at small size.

`make smoke-benchmarks` runs all (marker `benchmarks`), `make test` those of a few seconds. The scripts of other
libraries (peers/peer_*.py, peers/same_*.py) need environments of their own: of them only the imports are checked, and
the comparison and the pages are made from scores and records that stand here.
"""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import chat
from benchmark_data import write_data
from proponent.models.scratch import causal_lm

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(FOLDER.rglob("*.py"))
NAMES = [path.relative_to(FOLDER).as_posix() for path in SCRIPTS]

ALLOWED = (
    ("gpu_cost.py", "method_table", "forecasts of named methods"),
    (
        "harness.py",
        "training.trainer",
        "`proponent train`, whose widths and layers are no options of the command",
    ),
    (
        "index_cost.py",
        "gradients.computer index.planning method method_table",
        "the capture of the gradients of a named method is timed alone",
    ),
    (
        "fidelity/engine_speed.py fidelity/record_a.py fidelity/record_b.py",
        "engine",
        "retrains in several processes",
    ),
    ("notebook_job.py", "index.query_input", "scoring is timed apart from the queries' gradients"),
    (
        "search_scale.py ten_million.py",
        "gradients.forms gradients.gradient store",
        "the search is timed alone (and in one script with the release of mapped pages off)",
    ),
    ("explorer.py generated_index.py search_scale.py", "types", "names checkpoints of indexes written without a model"),
    ("decisions.py", "actions.decisions errors", "processes that decide through the library"),
    ("explorer.py", "web.questions web.states", "stores answers, for there is no model to ask"),
    (
        "projections.py",
        "gradients.layer_hooks gradients.layer_rules gradients.projection",
        "the projection is measured alone, over many seeds",
    ),
    (
        "replay_lds.py replay_memory.py same_training.py unrolled.py",
        "dynamics.loops dynamics.replay_engine",
        "the replay engine is measured: its memory, its weighted replays",
    ),
    (
        "acceptance_fastif.py",
        "errors index.fastif index.fastif_candidates index.fastif_solver method_table preconditioners.gauss_newton",
        "solver, candidates and Hessian are measured one by one",
    ),
    (
        "acceptance_trackstar.py fidelity/record.py fidelity/record_e.py",
        "baselines",
        "controls for texts that no index holds",
    ),
    (
        "acceptance_trackstar.py fidelity/record_e.py same_training.py",
        "evaluate.tail_patch",
        "what `proponent evaluate --metric tailpatch` measures, for rows that are given",
    ),
    (
        "fidelity/record_e.py same_training.py",
        "models.checkpoints tensors",
        "files of a checkpoint: moments for the tail patch",
    ),
    (
        "acceptance_fastif.py acceptance_trackstar.py same_training.py fidelity/deletion.py fidelity/engine_speed.py "
        "fidelity/record_a.py fidelity/record_b.py fidelity/record_c.py fidelity/record_d.py fidelity/record_e.py "
        "fidelity/record_f.py",
        "training.loop training.rerun training.schedule",
        "models are trained again under settings of the record's own, by the library's loop",
    ),
    (
        "acceptance_trackstar.py fidelity/record_a.py fidelity/record_b.py fidelity/record_c.py fidelity/record_d.py "
        "fidelity/record_e.py fidelity/record_f.py",
        "models.scratch",
        "makes a small model, which is not what is measured",
    ),
    (
        "fidelity/cnn_scores.py",
        "gradients.capture gradients.forms gradients.gradient gradients.projection method_parts preconditioners.adam "
        "preconditioners.base preconditioners.gauss_newton search.synonyms",
        "the CNN has no index: its scores are put together from the library's parts",
    ),
    (
        "lexical_bias.py",
        "actions.lexical_bias actions.run_predictions actions.word_labels",
        "the permutation test of a bag of words, which is no run",
    ),
    (
        "label_scores.py",
        "actions.cross_validation actions.label_errors actions.out_of_sample actions.text_features",
        "texts are encoded once for several rankings, and every source of probabilities is measured apart",
    ),
    (
        "suspect_rows.py",
        "actions.suspect_rows baselines",
        "every signal is measured apart, beside texts that are alike",
    ),
    (
        "chat_facts.py fidelity/record_h.py",
        "demo.chat_model",
        "the real chat model and its fine-tuning are those of `proponent demo --llm`",
    ),
    ("chat_facts.py", "demo.conversations", "its ordinary rows, too"),
    (
        "pruning.py",
        "actions.channel_influence models.prunable training.rerun",
        "the order of single channels is measured apart, against their removal",
    ),
    ("mending.py", "version", "stands in the record"),
    ("poison.py", "actions.run_predictions", "accuracy and attack success of the trained model itself"),
    (
        "weighing.py",
        "actions.consistency_weights actions.text_features actions.unlabelled_weights",
        "the rows of several seeds are judged together",
    ),
    (
        "noisy_pretraining.py",
        "actions.nmtune actions.nmtune_lora actions.noise_report actions.run_predictions actions.spectrum "
        "actions.text_features models.model_outputs models.scratch",
        "encoders are pre-trained here, contrastively as well; finished parts of the report are kept",
    ),
    ("fidelity/record_d.py", "actions.label_errors", "the raw sums by which `proponent labels` ranks"),
)
"""Scripts, the inner modules of the library that they may import, and why."""

INNER = {
    "acceptance_fastif.py": {"_ask", "_query_loss", "_hessian", "_loaded", "_scale"},
    "notebook_job.py": {"_ask", "_scorer"},
    "peers/peer_proponent.py": {"_scorer"},
}
"""Inner attributes that a script reads: the solver's parts; a search without the queries' gradients."""


FORMULAS = {
    "vmap", "grad", "jacrev", "jacfwd", "hessian", "functional_call", "solve", "inv", "pinv", "eigh", "eigvalsh", "svd",
    "lstsq", "cholesky", "einsum", "exp_avg_sq",
}  # fmt: skip
"""Names by which a script would compute gradients, curvature or a preconditioner of its own."""

ORACLES = {
    "acceptance_fastif.py": "the head's dense Hessian, which FastIF's solver is compared with",
    "projections.py": "TRAK's kernel in plain numpy, which an index is compared with",
    "search_scale.py": "products of all pairs, which the search is compared with",
    "peers/peer_dattri.py": "how that library calls a model",
    "peers/same_traker.py": "TRAK's own formula on its own features",
    "fidelity/record_f.py": "the main axis of the mixtures, which is no score",
    "fidelity/record_a.py": "Adam's own moments, for the scores of cnn_scores.py",
    "fidelity/cnn_scores.py": "the CNN of records A and C has no index; docs/fidelity.md marks their scores",
}
"""Scripts that hold a formula, and what it is for: everything else measures what the library computes."""


def formulas(path: Path) -> set[str]:
    """Names of formulas that a script uses."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None)
        text = node.value if isinstance(node, ast.Constant) else name
        found |= {text} & FORMULAS if isinstance(text, str) else set()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_script_holds_no_formula_of_a_method(name: str):
    """A copy would measure something else than what ships; an oracle is named as one."""
    assert bool(formulas(FOLDER / name)) == (name in ORACLES)


def test_the_search_for_formulas_can_fail(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text("import numpy as np\nx = np.linalg.solve(a, b)\ny = state['exp_avg_sq']\nz = 'solve it'\n")
    assert formulas(script) == {"solve", "exp_avg_sq"}


def wanted(path: Path) -> list[tuple[str, str | None]]:
    """Modules of the library that a script imports, with the names that it takes of them; texts of programs too."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "proponent":
            found += [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names if alias.name.split(".")[0] == "proponent"]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [
                (module, name.strip())
                for module, names in re.findall(r"^from (proponent[\w.]*) import (.+)$", node.value, re.MULTILINE)
                for name in names.split(",")
            ]
    return found


def is_public(module: str, name: str | None) -> bool:
    """Whether a name stands in the `__all__` of the library or of one of its packages."""
    home = import_module(module)
    if module == "proponent":
        return name is None or name in home.__all__
    return hasattr(home, "__path__") and name in getattr(home, "__all__", ())


def inner_modules(name: str) -> set[str]:
    """Inner modules of the library that a script imports."""
    found = {module for module, what in wanted(FOLDER / name) if not is_public(module, what)}
    return {module.removeprefix("proponent.") for module in found}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_imports_what_is_there(name: str):
    missing: list[str] = []
    for module, what in wanted(FOLDER / name):
        if what is None or hasattr(import_module(module), what):
            continue
        try:
            import_module(f"{module}.{what}")
        except ModuleNotFoundError:
            missing.append(f"{module}.{what}")
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_a_script_imports_what_is_public_or_allowed(name: str):
    allowed = {module for scripts, modules, _ in ALLOWED if name in scripts.split() for module in modules.split()}
    assert inner_modules(name) - allowed == set()


def test_no_allowance_is_idle():
    used = {name: inner_modules(name) for name in NAMES}
    for scripts, modules, _ in ALLOWED:
        several, some = scripts.split(), set(modules.split())
        assert [name for name in several if not used.get(name, set()) & some] == []
        assert some <= set().union(*(used[name] for name in several))


@pytest.mark.parametrize("name", NAMES)
def test_a_script_reads_no_inner_attribute_but_those_named(name: str):
    attributes = {
        node.attr
        for node in ast.walk(ast.parse((FOLDER / name).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and re.match(r"_[^_]", node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
    }
    assert attributes == INNER.get(name, set())


def test_the_check_of_imports_can_fail(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        'from proponent.evaluate.lds import lds\nCODE = "import sys\\nfrom proponent.cli import main, app"\n'
    )
    assert wanted(script) == [
        ("proponent.evaluate.lds", "lds"), ("proponent.cli", "main"), ("proponent.cli", "app")
    ]  # fmt: skip
    assert [is_public(*one) for one in wanted(script)] == [False, True, True]


RUNS = {
    "gpu": ["gpu.py --device cpu --smoke --out {out}"],
    "index_cost": ["index_cost.py --data {data} --texts 24 --repeats 1 --out {out}"],
    "ten_million": ["ten_million.py --sizes 3000,6000 --folder {tmp}/t --out {out}"],
    "search_scale": ["search_scale.py --sizes 200 --width 8 --repeats 1 --folder {tmp}/s --out {out}"],
    "projection_orders": [
        "projection_orders.py --data {data} --rows 24 --queries 2 --epochs 1 --width 16 --length 16 --out {out}",
    ],
    "one_norm": [
        "fidelity/one_norm.py --data {data} --cache {tmp}/n --rows 40 --queries 4 --subsets 20 --epochs 1 --length 16 "
        "--checkpoints 2 --runs 2 --out {out}",
    ],
    "row_kinds": ["row_kinds.py --data {data} --rows 60 --queries 16 --out {out}"],
    "notebook_job": ["notebook_job.py --data {data} --texts 330 --queries 3 --out {out}"],
    "memory": ["memory.py --sizes 60 --folder {tmp}/m --out {out}"],
    "language_model_cost": [
        "language_model_cost.py --data {data} --rows 6 --checkpoints 2 --model tiny --folder {tmp}/l --out {out}"
    ],
    "planted_copies": ["planted_copies.py --data {data} --rows 24 --queries 3 --copies 2 --epochs 1 --out {out}"],
    "forecast": ["forecast.py --data {data} --only small --scale 50 --repeats 1 --out {out}"],
    "explorer": ["explorer.py --n 600 --readers 2 --pages 1 --folder {tmp}/e --out {out}"],
    "running_explorer": ["running_explorer.py --data {data} --rows 60 --repeats 1 --folder {tmp}/re --out {out}"],
    "verify_speed": ["verify_speed.py --sizes 200 --width 8 --folder {tmp}/v --out {out}"],
    "attack": ["attack.py --n 600 --visits 8 --folder {tmp}/a --out {out}"],
    "decisions": ["decisions.py --n 120 --connections 4 --processes 2 --kills 2 --folder {tmp}/d --out {out}"],
    "torture": [
        "torture.py --only kills,flips,parsers --kills 2 --flips 4 --parsers 0.1 --page {tmp}/t.md --out {out}"
    ],
    "strangers_files": ["strangers_files.py --cases 8 --parsers 0 --cache {tmp}/sf --out {out}"],
    "replay": [
        "replay_memory.py --steps 6 --out {out}",
        "replay_lds.py --data {data} --setting scratch --rows 24 --subsets 8 --queries 2 --folder {tmp}/r --out {out}",
        "unrolled.py --data {data} --rows 16 --queries 3 --left-out 6 --tokens 16 --batch 8 --width 16 --out {out}",
    ],
    "same": [
        "same_scores.py runs {tmp}/same",
        "same_scores.py build {tmp}/same --out {tmp}/one --runs bert --methods tracin-we label",
        "same_scores.py compare {tmp}/one {tmp}/one",
        "same_training.py record {tmp}/same",
        "same_training.py hash {tmp}/same --runs bert classifier",
    ],
    "suspect_rows": [
        "suspect_rows.py --data {data} --cache {tmp}/w --rows 60 --seeds 1 --epochs 1 --width 16 --layers 1 "
        "--vocabulary 300 --length 32 --checkpoints 1 --out {out}",
    ],
    "label_scores": [
        "label_scores.py --data {data} --cache {tmp}/ls --sets agnews yoruba --rows 60 --seeds 1 --epochs 1 "
        "--out {out}",
        "label_scores.py --data {data} --cache {tmp}/ls --sets sst2 --name choose --rows 60 --seeds 1 --epochs 1 "
        "--out {out}",
    ],
    "acceptance_trackstar": [
        "acceptance_trackstar.py --cache {tmp}/a --seeds 0 --epochs 1 --patched 2 --entities 6 --distractors 4 "
        "--out {out}/2026-01-01-acceptance-trackstar.json",
    ],
    "acceptance_fastif": [
        "acceptance_fastif.py --data {data} --cache {tmp}/a --seeds 0 --rows 60 --epochs 1 --length 16 --queries 2 "
        "--anchors 2 --depth 4 --runs 1 --slow-depth 6 --slow-sample 4 --out {out}/2026-01-01-acceptance-fastif.json",
        "acceptance_page.py --out {out} --page {tmp}/acceptance.md",
    ],
    "peers": [
        "peers/run.py --data {data} --only proponent --texts 8 --queries 2 --repeats 1 --scratch {tmp}/p "
        "--page {tmp}/peers.md --out {out}",
    ],
    "record_a": [
        f"fidelity/record_a.py {what} --data {{data}} --cache {{tmp}}/a --rows 40 --queries 6 --subsets 8 --runs 2 "
        f"--epochs 2 --length 16 --width 8 --vocabulary 300 {more} --out {{out}}/2026-01-01-fidelity-a-{what}.json"
        for what, more in (("lds", ""), ("deletion", "--points 2 --k 3 --seeds 1 --sides helped"))
    ],
    "record_b": [
        f"fidelity/record_b.py {what} --data {{data}} --cache {{tmp}}/b --rows 40 --queries 6 --subsets 8 --runs 2 "
        f"--epochs 2 --length 24 --width 8 --layers 1 --vocabulary 300 {more} "
        f"--out {{out}}/2026-01-01-fidelity-b-agnews-scratch-{what}.json"
        for what, more in (
            ("lds", "--further influence-last"), ("runs", ""),
            ("deletion", "--points 2 --k 3 --seeds 1 --sides helped"),
        )
    ],
    "record_c": [
        "fidelity/record_c.py --data {data} --rows 60 --queries 20 --epochs 1 --seeds 1 "
        "--out {out}/2026-01-01-fidelity-c.json",
    ],
    "record_w": [
        "fidelity/record_w.py --task toxic_tweets_davidson --data {data} --cache {tmp}/w --rows 16 --queries 2 --k 2 "
        "--words 1 --epochs 1 --length 16 --out {out}/2026-01-01-fidelity-w-toxic_tweets_davidson.json",
    ],
    "record_i": [
        "fidelity/record_i.py places --data {data} --cache {tmp}/i --rows 24 --queries 3 --copies 1 --epochs 1 "
        "--checkpoints 1 --subsets 20 --out {out}",
    ],
    "record_d": [
        "fidelity/record_d.py --data {data} --cache {tmp}/d --sets yoruba --epochs 1 "
        "--out {out}/2026-01-01-fidelity-d-yoruba.json",
    ],
    "record_e": [
        "fidelity/record_e.py --data {data} --cache {tmp}/e --sentences 24 --facts 4 --epochs 1 --checkpoints 1 "
        "--patched 2 --out {out}/2026-01-01-fidelity-e.json",
    ],
    "record_f": [
        "fidelity/record_f.py --data {data} --blocks 16 --mixtures 3 --held 4 --out {out}/2026-01-01-fidelity-f.json",
    ],
    "mending": [
        "mending.py --data {data} --cache {tmp}/m --rows 24 --epochs 1 --runs 1 --asked 30 --length 24 "
        "--methods tracin-last --out {out}",
    ],
    "pruning": [
        "pruning.py --data {data} --cache {tmp}/p --sets agnews --rows 24 --asked 8 --epochs 1 --seeds 1 --channels 4 "
        "--batches 2 --steps 1 --out {out}",
    ],
    "weighing": [
        "weighing.py --data {data} --cache {tmp}/w --seeds 1 --labelled 12 --validation 12 --unlabelled 40 --test 12 "
        "--steps 20 --words 1 --foreign 30 --train-encoder 8 --train-steps 12 --train-unlabelled 8 --train-test 6 "
        "--train-length 12 --out {out}",
    ],
    "noisy_pretraining": [
        "noisy_pretraining.py --data {data} --cache {tmp}/n --objectives uniform,asymmetric,contrastive --levels 0,0.3 "
        "--posts 70 --epochs 1 --width 16 --layers 1 --vocabulary 300 --length 16 --rows 24 --test 12 --seeds 1 "
        "--head-epochs 1 --lora-rows 12 --every 2 --out {out}",
    ],
    "rollback": [
        "rollback.py planted ratings --cache {tmp}/rb --points 2 --counts 1 --out {out}",
    ],
    "unlearning": [
        "unlearning.py --cache {tmp}/u --seeds 1 --rows 8 --asked 4 --length 8 --epochs 1 --width 8 --rates 1e-4 "
        "--out {out}",
    ],
    "poison": [
        "poison.py --data {data} --cache {tmp}/p --rows 60 --epochs 1 --sets sst2 --attacks prefix --rates 0,0.1 "
        "--seeds 0 --out {out}",
    ],
    "lexical_bias": [
        "lexical_bias.py --data {data} --cache {tmp}/b --rows 120 --pairs 150 --seeds 1 --controls 1 --epochs 1 "
        "--width 8 --least 5 --out {out}",
    ],
    "engine_speed": [
        "fidelity/engine_speed.py --rows 512 --models 1 --repeats 1 --out {out}/2026-01-01-engine-speed.json",
    ],
}  # fmt: skip
"""Command lines of each script at small size."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def script(line: str) -> str:
    """Run a script in a process of its own, as people do."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    name, *words = line.split()
    done = subprocess.run(
        [sys.executable, FOLDER / name, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    return done.stdout


def run_all(lines: list[str], data: Path, tmp_path: Path) -> list[dict[str, object]]:
    """Run scripts; the records that they wrote."""
    (tmp_path / "out").mkdir()
    for line in lines:
        script(line.format(data=data, tmp=tmp_path, out=tmp_path / "out"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((tmp_path / "out").glob("*.json"))]


QUICK = ("search_scale", "record_e")
"""Runs of few seconds, which `make test` does too."""


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.benchmarks) for name in RUNS
])  # fmt: skip
def test_smoke(name: str, data: Path, tmp_path: Path):
    records = run_all(RUNS[name], data, tmp_path)
    assert all("date" in record for record in records)
    assert records or name == "same"
    for record in records:
        said = record["environment"]
        assert isinstance(said, dict)
        assert {"host", "cores", "versions", "command"} <= said.keys()
        assert {"python", "proponent", "torch", "transformers"} <= said["versions"].keys()
        if "record" in record:  # of fidelity
            assert record["initial"]


@pytest.mark.benchmarks
def test_smoke_chat(data: Path, tmp_path: Path):
    """A tiny model in place of the real one."""
    pytest.importorskip("trl")
    own = chat.tokenizer(chat.UNMARKED, most=512)
    causal_lm(own, 16, 1, 512).save_pretrained(tmp_path / "base")
    own.save_pretrained(tmp_path / "base")
    small = "--rows 8 --queries 4 --length 200 --longest 400 --subsets 20"
    home = "--data {data} --base {tmp}/base --cache {tmp}/h --out {out}"
    lines = [f"fidelity/record_h.py {step} {home} {small}" for step in ("bank", "report", "status")]
    lines.append(
        "chat_facts.py --seeds 1 --epochs 1 --batch 40 --checkpoints 1 --length 300 --model {tmp}/base --cache {tmp}/f "
        "--out {out}"
    )
    records = run_all(lines, data, tmp_path)
    assert len(records) == 2
    recalls = next(record["recall at 5"] for record in records if "recall at 5" in record)
    assert {"default", "ekfac over lora", "bm25", "embedding"} <= set(recalls)
    assert recalls["bm25"]["minus bm25"]["value"] == 0


@pytest.mark.benchmarks
def test_smoke_readers(data: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    script(f"readers.py sheets --data {data} --cache {cache} --models agnews --rows 60 --queries 20")
    script(f"readers.py shuffle --cache {cache}")
    sheets = (cache / "sheets.txt").read_text(encoding="utf-8").count("=== sheet ")
    assert sheets > 0
    lines = "".join(f"{number},1,{number % 2}\n" for number in range(1, sheets + 1))
    (cache / "reader-a.csv").write_text(f"sheet,examples,words\n{lines}", encoding="utf-8")
    (record,) = run_all([f"readers.py report --cache {cache} --out {{out}}"], data, tmp_path)
    told = record["told"]
    assert isinstance(told, dict)
    half = (sheets + 1) // 2
    assert told == {"now": {"agnews": {"examples": {"a": sheets, "all": sheets}, "words": {"a": half, "all": half}}}}


@pytest.mark.benchmarks
def test_smoke_explorer_pages(tmp_path: Path):
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no Chromium")
    demo = Path(os.environ.get("PROPONENT_DEMO", tmp_path / "demo"))
    if not demo.exists():
        subprocess.run([sys.executable, "-m", "proponent.cli", "demo", "--out", demo, "--quiet"], check=True)
    (record,) = run_all([f"explorer_pages.py --demo {demo} --out {{out}}"], tmp_path, tmp_path)
    pages = record["pages"]
    assert isinstance(pages, dict)
    assert {"home", "table", "answer", "test-set", "errors"} <= pages.keys()


@pytest.mark.benchmarks
def test_smoke_paint(tmp_path: Path):
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no Chromium")
    assert run_all(["paint.py --times 1 --out {out}"], tmp_path, tmp_path)


@pytest.mark.benchmarks
def test_smoke_agreement(data: Path, tmp_path: Path):
    """The peers' scores are drawn, as if they had been written by an earlier run."""
    draw, work = np.random.default_rng(0), tmp_path / "work"
    work.mkdir()
    names = {
        "captum": ("we", "we, rates 1", "last", "last, bias", "all"),
        "kronfluence": ("identity", "mean .1", "absolute", "last block too", "sampled", "biases", "as it comes"),
    }
    for peer, several in names.items():
        np.savez(work / f"{peer}.npz", **{name: draw.standard_normal((16, 64)) for name in several})
    same = {name: draw.standard_normal((16, 64)) for name in ("exact", "scores", "numpy", "norms", "squares")}
    np.savez(work / "traker.npz", products=draw.standard_normal((3, 16, 64)), width=np.asarray(16), **same)
    line = "agreement.py --data {data} --no-peers --seeds 3 --work {tmp}/work --page {tmp}/agreement.md --out {out}"
    (record,) = run_all([line], data, tmp_path)
    assert record["projections"]["index_is_projection"] < 1e-5
    assert "## Same definition" in (tmp_path / "agreement.md").read_text(encoding="utf-8")


@pytest.fixture
def as_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let a script run in this process; what it imports of its own folder is forgotten."""
    own = {path.stem for path in FOLDER.rglob("*.py")}
    for name in own & set(sys.modules):  # tests/ has modules of the same names
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield monkeypatch
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def started(name: str, words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Run a script in this process."""
    path = FOLDER / name
    patch.setattr(sys, "argv", [str(path), *words])
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


ELSEWHERE = re.compile(r"peers/(peer|same)_(?!proponent)")
COMMANDS = [
    name
    for name, path in zip(NAMES, SCRIPTS, strict=True)
    if "ArgumentParser" in (text := path.read_text(encoding="utf-8")) or "arguments(" in text
    if '__name__ == "__main__"' in text and not ELSEWHERE.match(name)
]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_script_parses_its_arguments(name: str, as_script: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        started(name, ["--help"], as_script)
    assert end.value.code == 0
    assert "--" in capsys.readouterr().out


@pytest.mark.parametrize("name", [
    "tables.py", "acceptance_page.py", "scale_plan.py", "fidelity/leaderboard.py", "fidelity/pictures.py",
])  # fmt: skip
def test_a_page_is_the_one_that_its_records_make(name: str, as_script: pytest.MonkeyPatch, tmp_path: Path):
    page = {
        "tables.py": "benchmarks.md",
        "acceptance_page.py": "acceptance.md",
        "scale_plan.py": "scale.md",
        "fidelity/leaderboard.py": "leaderboard.md",
    }.get(name, "fidelity.md")
    words = ["--docs", str(tmp_path)] if "pictures" in name else ["--page", str(tmp_path / page)]
    started(name, words, as_script)
    made = (tmp_path / page).read_text(encoding="utf-8")
    assert made == (FOLDER.parent / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("folder", "module", "name"), [("peers", "report", "peers"), (".", "agreement_page", "agreement")]
)
def test_a_page_is_the_one_that_the_last_record_makes(
    folder: str, module: str, name: str, as_script: pytest.MonkeyPatch
):
    as_script.syspath_prepend(FOLDER / folder)
    record = json.loads(max((FOLDER / "results").glob(f"*-{name}.json")).read_text(encoding="utf-8"))
    made = import_module(module).page(record)
    assert made == (FOLDER.parent / "docs" / f"{name}.md").read_text(encoding="utf-8")


def test_an_unknown_peer_is_refused(as_script: pytest.MonkeyPatch):
    as_script.syspath_prepend(FOLDER / "peers")
    run = import_module("run")
    with pytest.raises(SystemExit, match="--only nobody: known are proponent"):
        run.chosen(run.argparse.Namespace(only="nobody", growth=0, slow=False))


def test_a_peers_scores_are_compared(as_script: pytest.MonkeyPatch, tmp_path: Path):
    as_script.syspath_prepend(FOLDER / "peers")
    scores = np.random.default_rng(0).standard_normal((3, 20))
    for name, one in (("proponent", scores), ("same", 2 * scores), ("other", -scores)):
        np.save(tmp_path / f"{name}.end-to-end.npy", one)
    variants = {"proponent": {}, "same": {"quantity": "embedding"}, "other": {}, "unfinished": {}}
    import_module("run").compare(variants, tmp_path)
    assert variants["same"]["agreement"]["Spearman, mean over the queries"] == pytest.approx(1)
    assert variants["same"]["agreement"]["largest difference over the query's largest score"] > 0.1
    assert variants["other"]["agreement"] == {"Spearman, mean over the queries": pytest.approx(-1)}
    assert variants["unfinished"] == {}


def test_a_view_of_a_notebook_is_looked_at(as_script: pytest.MonkeyPatch):
    as_script.syspath_prepend(FOLDER)
    notebooks = import_module("notebooks")
    view = '<div class="wh-root"><p>one <mark>word</mark></p></div>'
    assert notebooks.found(view, f"<html><body>{view}</body></html>")["marks"] == 1
    with pytest.raises(AssertionError, match="can run code"):
        notebooks.found(view.replace("<p>", '<p onclick="x()">'), view)
    with pytest.raises(AssertionError, match="does not hold"):
        notebooks.found(view, "<html></html>")
