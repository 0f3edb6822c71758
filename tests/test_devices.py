"""Indexes and questions on another device and in half precision: a pretended card gives the CPU's bits."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import answered
import proponent
import runs
from pretend_device import NAME, pretend_device
from proponent.cost import forecast
from proponent.data import read
from proponent.errors import InputError, MismatchError
from proponent.gradients import pass_size
from proponent.index import Options
from proponent.method_table import stored_method
from proponent.models import Run
from proponent.models.placement import Placement

pytestmark = pytest.mark.filterwarnings("ignore")
Said = Callable[..., tuple[int, str, str]]
LINES = [{"id": row["id"], "text": row["text"]} for row in runs.ROWS]
OF_CLASSES = (
    "tracin-we", "tracin-we-idf", "tracin-we-adam-unit", "tracin-last", "tracin-all", "grad-cos", "ekfac", "datainf",
    "trackstar", "representer", "fastif",
)  # fmt: skip
OF_TOKENS = ("tracin-we", "tracin-we-idf", "tracin-last", "grad-cos", "ekfac")


FASTIF = {"layers": "head", "solver": "cg", "damping": 0.1}


def answers(folder: Path, rows: Any, asked: Any, method: Any, out: Path, **how: Any) -> tuple[Any, list[Any]]:
    """Scores of some questions, and the words of their answers."""
    how = {"quiet": True, "batch_size": 4, "second_moment": "estimate"} | how
    index = proponent.build(folder, rows, out, method, **how)
    queries = read(asked)
    why = [*index.explain_many(queries, k=2)]
    return np.asarray(index.scores(queries)), [(hit.id, hit.score, hit.words) for one in why for hit in one.proponents]


def compare(folder: Path, rows: Any, asked: Any, method: Any, tmp_path: Path, **how: Any) -> None:
    """On the pretended card as on the CPU."""
    how |= {"steps": [Run.from_pretrained(folder).checkpoints[-1].step]}
    here = answers(folder, rows, asked, method, tmp_path / "cpu", device="cpu", **how)
    with pretend_device():
        there = answers(folder, rows, asked, method, tmp_path / "card", device="cuda", **how)
    assert np.nanmax(np.abs(here[0])) > 0  # rows that were not trained on have no score
    assert np.array_equal(here[0], there[0], equal_nan=True)
    assert here[1] == there[1]


@pytest.mark.parametrize("method", OF_CLASSES)
def test_methods_of_a_classifier(method: str, bert_run: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = FASTIF if method == "fastif" else {}
    compare(bert_run, runs.ROWS[:9], runs.OTHERS[:2], method, tmp_path, **changes)


@pytest.mark.parametrize("method", OF_TOKENS)
def test_methods_of_a_language_model(method: str, lm_run: Path, tmp_path: Path) -> None:
    compare(lm_run, LINES[:9], LINES[:1], method, tmp_path)


def t5(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config).eval()


PLACES = [{**row, "text_pair": row["text"], "label": row["text"].split()[1]} for row in runs.ROWS]
TAGS = [{**row, "label": [("O", "B")[at % 2] for at, _ in enumerate(row["text"].split())]} for row in runs.ROWS]
VALUES = [{**row, "label": float(at % 5)} for at, row in enumerate(runs.ROWS)]
SEVERAL = [{**row, "label": [("a", "b")[at % 2]]} for at, row in enumerate(runs.ROWS)]
TARGETS = [{"id": row["id"], "text": row["text"], "target": row["text"].split()[0]} for row in runs.ROWS]
TASKS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "places": ("BertForQuestionAnswering", {}, PLACES),
    "tags": ("BertForTokenClassification", {"id2label": {0: "O", 1: "B"}, "label2id": {"O": 0, "B": 1}}, TAGS),
    "values": ("BertForSequenceClassification", {"num_labels": 1}, VALUES),
    "several labels": (
        "BertForSequenceClassification",
        {
            "problem_type": "multi_label_classification",
            "id2label": {0: "a", 1: "b"},
            "label2id": {"a": 0, "b": 1},
        },
        SEVERAL,
    ),
    "masked tokens": ("BertForMaskedLM", {}, LINES),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["tracin-we", "grad-cos"])
def test_tasks(task: str, method: str, tmp_path: Path) -> None:
    name, settings, rows = TASKS[task]
    tokenizer = answered.tokenizer_of(runs.ROWS, "text")
    folder = answered.saved(tmp_path / "run", answered.model(name, tokenizer, **settings), tokenizer)
    compare(folder, rows[:9], rows[:1], method, tmp_path)


@pytest.mark.parametrize("method", ["tracin-we", "tracin-we-idf", "grad-cos"])
def test_an_encoder_and_decoder(method: str, tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    folder = answered.saved(tmp_path / "run", t5(tokenizer), tokenizer)
    compare(folder, TARGETS[:9], TARGETS[:1], method, tmp_path)


@pytest.mark.parametrize("kind", ["dpo", "kto", "reward"])
def test_judged_answers(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    preferences = pytest.importorskip("preferences")
    base, folder = preferences.start(tmp_path / "base"), tmp_path / "run"
    rows = preferences.JUDGED if kind == "kto" else preferences.TEXTS
    rows = [row | {"id": f"r{at}"} for at, row in enumerate(rows)]
    getattr(preferences, kind)(folder, base, rows, **({"lora": True} if kind == "dpo" else {})).train()
    compare(folder, rows, rows[:1], "tracin-we", tmp_path)


def test_an_answer_is_written_on_the_device(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    preferences = pytest.importorskip("preferences")
    folder = preferences.start(tmp_path / "run")
    said: list[str] = []
    rows = [
        {"id": f"m{at}", "prompt": row["prompt"], "completion": row["completion"]}
        for at, row in enumerate(preferences.JUDGED_MESSAGES[:6])
    ]
    for device in ("cpu", "cuda"):
        with pretend_device():
            index = proponent.build(folder, rows, tmp_path / device, "tracin-we", device=device, quiet=True)
            why = index.explain(messages=rows[0]["prompt"], generate=True)
            said.append(json.dumps(why.to_dict()["query"]))
    assert said[0] == said[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", ["tracin-we", "tracin-we-idf", "grad-cos"])
def test_half_precision_is_near(dtype: str, method: str, bert_run: Path, lm_run: Path, tmp_path: Path) -> None:
    for folder, rows, asked in ((bert_run, runs.ROWS[:9], runs.OTHERS[:1]), (lm_run, LINES[:9], LINES[:1])):
        name = folder.name
        wide, _ = answers(folder, rows, asked, method, tmp_path / f"{name}-wide", device="cpu")
        half, _ = answers(folder, rows, asked, method, tmp_path / f"{name}-half", device="cpu", dtype=dtype)
        assert half.dtype == wide.dtype
        assert 0 < np.abs(half - wide).max() <= (0.05 if dtype == "bfloat16" else 0.01) * np.abs(wide).max()


def test_an_index_says_where_and_how_it_was_computed(bert_run: Path, tmp_path: Path) -> None:
    with pretend_device():
        index = proponent.build(bert_run, runs.ROWS, tmp_path / "index", device="auto", dtype="bfloat16", quiet=True)
        assert any(f"computed on {NAME}" in note and "bfloat16" in note for note in index.store.manifest.notes)
        assert index.store.plan.source.batch_size == 256
        model = index.run.load(index.run.checkpoints[-1])
        assert {one.dtype for one in model.parameters()} == {torch.bfloat16}
    assert proponent.open(tmp_path / "index", device="cpu").run.placement == Placement("cpu", "bfloat16")
    wide = proponent.open(tmp_path / "index", device="cpu", dtype="float32")
    assert wide.run.placement == Placement()
    assert wide.explain("the match").proponents
    plain = proponent.build(bert_run, runs.ROWS, tmp_path / "plain", device="cpu", quiet=True)
    assert not any("computed on" in note for note in plain.store.manifest.notes)
    with pytest.raises(MismatchError, match="its --dtype is float32, not float16"):
        proponent.build(bert_run, runs.ROWS, tmp_path / "plain", device="cpu", dtype="float16", quiet=True)


def test_an_index_goes_on_with_its_own_batches_on_another_device(bert_run: Path, tmp_path: Path) -> None:
    for first, second in (("cpu", "cuda"), ("cuda", "cpu")):
        with pretend_device():
            out = tmp_path / first
            made = proponent.build(bert_run, runs.ROWS[:9], out, "tracin-we", device=first, quiet=True, shard="0/1")
            assert made.store.sealed
            for more in ({}, {"repair": True}):
                again = proponent.build(bert_run, runs.ROWS[:9], out, "tracin-we", device=second, quiet=True, **more)
                assert again.store.plan.source.batch_size == (32 if first == "cpu" else 256)
            grown = proponent.build(bert_run, runs.ROWS[9:12], out, "tracin-we", device=second, quiet=True, append=True)
            assert len(grown.store.alive) == 12
            said = [note for note in grown.store.manifest.notes if "computed on" in note]
            assert len(said) == 1
            assert ("was computed on" in said[0]) == (first == "cpu")  # the rest was not


def test_a_card_with_room_for_one_checkpoint_is_asked(bert_run: Path, tmp_path: Path) -> None:
    with pretend_device():
        run = Run.from_pretrained(bert_run, device="cuda")
        assert len(run.checkpoints) == 3
        held = sum(one.nbytes for one in run.load(run.checkpoints[-1]).parameters())
    wide = proponent.build(bert_run, runs.ROWS[:9], tmp_path / "wide", "tracin-we", device="cpu", quiet=True)
    with pretend_device(room=int(1.9 * held)):
        index = proponent.build(bert_run, runs.ROWS[:9], tmp_path / "card", "tracin-we", batch_size=2, quiet=True)
        found = index.scores(["the match"])
    np.testing.assert_allclose(found, wide.scores(["the match"]), rtol=1e-5)


def test_solvers_with_the_hessian_refuse_half_precision(bert_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fastif solves with the Hessian, for which bfloat16 is too coarse"):
        proponent.build(bert_run, runs.ROWS, tmp_path / "half", "fastif", device="cpu", dtype="bfloat16", quiet=True)
    proponent.build(bert_run, runs.ROWS, tmp_path / "wide", "fastif", device="cpu", quiet=True, **FASTIF)
    with pytest.raises(InputError, match="leave --dtype out"):
        proponent.open(tmp_path / "wide", dtype="float16")


def test_a_run_has_its_own_device(bert_run: Path, tmp_path: Path) -> None:
    run = Run.from_pretrained(bert_run, device="cpu")
    for given in ({"device": "cuda"}, {"dtype": "int3"}):
        with pytest.raises(InputError, match="device and dtype are those of the run"):
            proponent.build(run, runs.ROWS, tmp_path / "index", quiet=True, **given)


def test_rotary_frequencies_stay_exact(tmp_path: Path) -> None:
    preferences = pytest.importorskip("preferences")
    folder = preferences.start(tmp_path / "run")
    exact = Run.from_pretrained(folder, device="cpu").load(Run.from_pretrained(folder).checkpoints[-1])
    run = Run.from_pretrained(folder, device="cpu", dtype="bfloat16")
    tables = dict(run.load(run.checkpoints[-1]).named_buffers())
    assert tables
    for name, table in exact.named_buffers():
        assert torch.equal(table, tables[name])


def test_numbers_too_large_for_half_precision_name_their_rows(copied: Any, lm_run: Path, tmp_path: Path) -> None:
    folder = copied(lm_run)
    for home in [folder, *folder.glob("checkpoint-*")]:
        if (home / "model.safetensors").is_file():
            model = transformers.AutoModelForCausalLM.from_pretrained(home)
            with torch.no_grad():
                model.transformer.h[0].mlp.c_fc.weight.mul_(1e4)
                model.transformer.h[0].mlp.c_proj.weight.mul_(1e4)
            model.save_pretrained(home)
    with pytest.raises(InputError, match=r"no finite loss or gradient.*id n0 .*loss is not finite"):
        proponent.build(folder, LINES, tmp_path / "half", device="cpu", dtype="float16", quiet=True)


def test_passes_are_halved_when_memory_runs_out(
    lm_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pass_size, "SMALL", 8)
    here, _ = answers(lm_run, LINES, LINES[:2], "tracin-we", tmp_path / "cpu", device="cpu", batch_size=24)
    with pretend_device():
        run = Run.from_pretrained(lm_run, device="cuda")
        model = run.load(run.checkpoints[-1])
        held = sum(one.nbytes for one in model.parameters())
        proponent.build(run, LINES, tmp_path / "roomy", "tracin-we", batch_size=24, quiet=True)
        peak = torch.cuda.max_memory_allocated() - held
    monkeypatch.setattr(pass_size, "DEVICE_SHARE", 1000.0)  # as if a pass took nothing: memory runs out
    capsys.readouterr()
    with pretend_device(room=held + peak // 4):
        run = Run.from_pretrained(lm_run, device="cuda")
        proponent.build(run, LINES, tmp_path / "short", "tracin-we", batch_size=24, quiet=True)
    said = capsys.readouterr().err
    assert "memory of the device ran out: passes were made smaller" in said
    assert "logits of all positions" not in said
    there = proponent.open(tmp_path / "short", device="cpu").scores(read(LINES[:2]))
    assert np.abs(there - here).max() <= 1e-5 * np.abs(here).max()


def test_a_text_for_which_there_is_no_memory_says_what_to_do(lm_run: Path, tmp_path: Path) -> None:
    with pretend_device():
        run = Run.from_pretrained(lm_run, device="cuda")
        held = sum(one.nbytes for one in run.load(run.checkpoints[-1]).parameters())
    with pretend_device(room=held + 20_000), pytest.raises(InputError, match=r"no memory for one text of .* tokens"):
        proponent.build(lm_run, LINES, tmp_path / "index", "tracin-we", device="cuda", quiet=True)


@pytest.mark.parametrize("method", ["tracin-we", "grad-cos"])
def test_a_plan_forecasts_the_memory_of_the_device(method: str, lm_run: Path, tmp_path: Path) -> None:
    examples, term = read(LINES), stored_method(method)
    assert forecast(Run.from_pretrained(lm_run, device="cpu"), examples, term).peak_device is None
    with pretend_device():
        run = Run.from_pretrained(lm_run, device="cuda")
        found = forecast(run, examples, term, Options(batch_size=10, quiet=True)).peak_device
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        proponent.build(run, LINES, tmp_path / "index", method, batch_size=10, quiet=True)
        peak = torch.cuda.max_memory_allocated()
    assert found is not None
    assert 0.85 <= found / peak <= 1.15


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device", "cuda:7"), "device 'cuda:7': this machine has cpu"),
        (("--device", "cdua"), "did you mean 'cuda'"),
        (("--device", "mps:1"), "this machine has cpu"),
        (("--dtype", "bfloat"), "did you mean 'bfloat16'"),
        (("--dtype", "int8"), "choose one of float32, bfloat16, float16"),
    ],
)
def test_what_does_not_exist_is_refused(
    words: tuple[str, str], message: str, said: Said, bert_run: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, runs.ROWS)))
    code, _, err = said("index", bert_run, data, "--out", tmp_path / "index", *words)
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "index").exists()


def test_commands_take_a_device(said: Said, bert_run: Path, tmp_path: Path) -> None:
    data, index = tmp_path / "rows.jsonl", tmp_path / "index"
    data.write_text("\n".join(map(json.dumps, runs.ROWS)))
    with pretend_device():
        assert (
            said("index", bert_run, data, "--out", index, "--device", "cuda", "--dtype", "bfloat16", "--json")[0] == 0
        )
        code, out, _ = said("explain", index, "the match", "--device", "cuda", "--json")
        assert code == 0
        assert json.loads(out)["proponents"]
        code, out, _ = said("plan", bert_run, data, "--device", "cuda")
        assert code == 0
        assert "peak memory of the GPU" in out
