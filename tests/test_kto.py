"""KTO: tokens and batches as TRL feeds them, gradients as autograd and the trainer have them, questions, refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proponent
from proponent.data import read
from proponent.errors import DataError, InputError, MismatchError, RunError
from proponent.gradients.computer import GradientComputer, GradientSpec
from proponent.gradients.vocabulary_head import head_of
from proponent.index.row_check import judged_batches, tell_batches
from proponent.method import EmbeddingRows, Gradients, Head, Layers, Loss
from proponent.models import Run
from proponent.models.judged_rows import JudgedBatches

pytest.importorskip("trl")
pytest.importorskip("datasets")
preferences = pytest.importorskip("preferences")
pytestmark = pytest.mark.filterwarnings("ignore")

Said = Callable[..., tuple[int, str, str]]
ROWS = [row | {"id": f"j{at}"} for at, row in enumerate(preferences.JUDGED)]
SETTINGS: dict[str, Any] = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preferences.start(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def full(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full") / "run"
    preferences.kto(folder, base, preferences.JUDGED, **SETTINGS).train()
    return folder


@pytest.fixture(scope="module")
def index(full: Path, tmp_path_factory: pytest.TempPathFactory) -> proponent.Index:
    return proponent.build(full, ROWS, tmp_path_factory.mktemp("kto") / "index", quiet=True)


def told(run: Run, rows: Any) -> tuple[Any, list[Any]]:
    """The encoder of a run whose batches are known, and its rows that are trained on."""
    encoder, made = preferences.encoded(run, rows)
    tell_batches(run, encoder, read(rows, allow_empty=True), "rows")
    return encoder, [one for one in made if one.counted.any()]


@pytest.mark.parametrize("rows", [preferences.JUDGED, preferences.JUDGED_MESSAGES], ids=["texts", "messages"])
def test_tokens_and_batches_are_those_of_the_collated_batch(rows: Any, base: Path, full: Path, tmp_path: Path) -> None:
    trainer = preferences.kto(tmp_path, base, rows)
    run = Run.from_pretrained(full)
    encoder, made = preferences.encoded(run, rows)
    data = read(rows, allow_empty=True)
    parts = [(example.row, encoder.judged_parts(example)) for example in data]
    batches = JudgedBatches.of(parts, 4, encoder.max_length).batches
    own = [(one.ids.tolist(), one.counted[1:].astype(int).tolist()) for one in made if one.counted.any()]
    neighbours = [[(one.ids.tolist(), one.counted[1:].astype(int).tolist()) for one in each] for each in batches]
    theirs: list[Any] = []
    for number, start in enumerate(range(0, len(trainer.train_dataset), 4)):
        some = [trainer.train_dataset[at] for at in range(start, min(start + 4, len(trainer.train_dataset)))]
        batch = trainer.data_collator(some)
        both = [
            [
                (ids[mask > 0].tolist(), counts[mask > 0][1:].tolist())
                for ids, mask, counts in zip(
                    *(batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask")),
                    strict=True,
                )
            ]
            for prefix in ("", "KL_")
        ]
        theirs += both[0]
        assert neighbours[number] == both[1]
    assert own == theirs
    assert len(own) < len(rows) or rows is preferences.JUDGED_MESSAGES, "the prompt of one row fills what is read"


def truth(run: Run, model: Any, at: int, made: list[Any], weight: Any) -> tuple[float, np.ndarray]:
    """Loss and gradient of a row by autograd; reference and estimate are computed anew, without blocks or hooks."""
    task = run.task
    reference = preferences.transformers.AutoModelForCausalLM.from_pretrained(
        task.reference
        or json.loads((run.checkpoints[-1].path / "adapter_config.json").read_text())["base_model_name_or_path"]
    ).to(model.dtype)

    def logps(of: Any, one: Any) -> torch.Tensor:
        return preferences.logps(of, torch.as_tensor(one.ids), torch.as_tensor(one.counted))

    batches = run.judged.batches
    side, row = made[at].answer[:2]
    with torch.no_grad():
        gaps = [float(logps(model, one) - logps(reference, one)) for one in batches.batches[batches.batch_of[int(row)]]]
        known = float(logps(reference, made[at]))
    estimate = max(0.0, float(np.mean(gaps)))
    weight.requires_grad_(True)
    margin = side * task.beta * (logps(model, made[at]) - known - estimate)
    loss = task.weights[0 if side > 0 else 1] * (1 - torch.sigmoid(margin))
    (found,) = torch.autograd.grad(loss, [weight])
    weight.requires_grad_(False)
    return float(loss.detach()), found.double().numpy()


@pytest.mark.parametrize("what", ["input", "output", "layer"])
def test_the_gradient_of_a_row_is_that_of_autograd(what: str, full: Path) -> None:
    run = Run.from_pretrained(full)
    encoder, made = told(run, preferences.JUDGED)
    model = run.load(run.checkpoints[-1]).double()
    names = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    layer = "model.layers.0.self_attn.q_proj"
    chosen = {"layer": Layers(names=(layer,)), "output": Head(), "input": EmbeddingRows(path="input")}
    gradient: Any = chosen[what]
    method = Gradients(name="rows", gradient=gradient, objective=Loss(reduction="sum"))
    spec = GradientSpec.of_layers(method, run, model, closed_head=False) if what == "layer" else None
    work = GradientComputer(run, model, method, encoder, spec)
    found = work.train(made, [-1] * len(made))
    weight = (model.get_submodule(layer) if what == "layer" else names[what]).weight
    estimates = {one.answer[3] for one in work.completed(made)}
    assert len(estimates) > 2
    assert max(estimates) > 0
    for at in range(len(made)):
        loss, wanted = truth(run, model, at, made, weight)
        assert abs(found.losses[at] - loss) <= 1e-9
        mine = np.zeros_like(wanted)
        if what == "layer":
            mine = found.gradient.dense.v[at].reshape(wanted.shape)
        elif what == "input":
            rows = found.gradient.rows.example(at)
            np.add.at(mine, rows.ids, rows.rows)
        else:
            mine = found.gradient.head.example(at).outer(head_of(work.tables())).dense()
        np.testing.assert_allclose(mine, wanted, atol=1e-6 * max(1.0, float(np.abs(wanted).max())))


def test_the_sum_over_a_batch_is_the_gradient_of_the_trainer(base: Path, full: Path, tmp_path: Path) -> None:
    run = Run.from_pretrained(full)
    reference = preferences.transformers.AutoModelForCausalLM.from_pretrained(base)
    grads = preferences.Grads()
    trainer = preferences.kto(
        tmp_path, base, preferences.JUDGED, grads, model=run.checkpoints[-1].path, ref_model=reference, max_steps=1,
        max_grad_norm=0.0, **SETTINGS,
    )  # fmt: skip
    trainer.train()
    encoder, made = told(run, preferences.JUDGED)
    model = run.load(run.checkpoints[-1])
    for name, one in trainer.model.named_parameters():  # the trainer has taken a step since
        assert one.shape == dict(model.named_parameters())[name].shape
    method = Gradients(name="rows", gradient=EmbeddingRows(path="input"), objective=Loss(reduction="sum"))
    found = GradientComputer(run, model, method, encoder).train(made[:4], [-1] * 4).gradient.rows
    total = np.zeros(model.get_input_embeddings().weight.shape)
    for at in range(4):
        rows = found.example(at)
        np.add.at(total, rows.ids, rows.rows)
    theirs = grads.found["model.embed_tokens.weight"].numpy()
    np.testing.assert_allclose(total / 4, theirs, atol=1e-5)
    assert np.abs(theirs).max() > 1e-3


def test_an_adapter_and_the_loss_without_an_estimate(base: Path, tmp_path: Path) -> None:
    preferences.kto(tmp_path / "run", base, preferences.JUDGED, lora=True, loss_type="apo_zero_unpaired").train()
    run = Run.from_pretrained(tmp_path / "run")
    assert run.task.sharing == 0
    encoder, made = told(run, preferences.JUDGED)
    model = run.load(run.checkpoints[-1]).double()
    method = Gradients(name="rows", objective=Loss(reduction="sum"))
    found = GradientComputer(run, model, method, encoder).completed(made)
    assert {one.answer[3] for one in found} == {0.0}
    index = proponent.build(run, ROWS[::-1], tmp_path / "index", quiet=True)  # no row depends on another
    assert np.isfinite(index.store.features["losses"][-1]).sum() == len(made)


def test_a_question_has_the_loss_of_its_answer_and_names_rows(index: proponent.Index) -> None:
    why = index.explain(ROWS[2]["prompt"], target=ROWS[2]["completion"], k=5)
    assert len(why.proponents) == 5
    alone = index.explain({"prompt": ROWS[2]["prompt"], "completion": ROWS[2]["completion"]}, k=5)
    assert [hit.id for hit in alone.proponents] == [hit.id for hit in why.proponents]
    with pytest.raises(InputError, match=r"it also has label; the loss of a judged answer is not asked for"):
        index.explain(ROWS[2])
    layered = proponent.build(index.run, ROWS, index.store.folder.parent / "layers", "tracin-all", quiet=True)
    hit = proponent.Index(layered.store.folder).explain(ROWS[2]["prompt"], target=ROWS[2]["completion"]).proponents[0]
    assert sum(one.share for one in hit.words) == pytest.approx(hit.score, rel=1e-3)


def changed(rows: list[dict[str, Any]]) -> dict[str, tuple[list[dict[str, Any]], str]]:
    other = [rows[1], rows[0], *rows[2:]]
    return {
        "another order": (
            other,
            r"row 0 \(id j1\) is not row 0 of the training.*depends on the rows of the same batch",
        ),
        "rows left out": (rows[:8], r"holds 8 of the \d+ rows of the training"),
        "a row more": ([*rows, rows[3] | {"id": "again"}], r"row 21 \(id again\) is not row \d+ of the training"),
    }


@pytest.mark.parametrize("kind", ["another order", "rows left out", "a row more"])
def test_other_rows_than_those_of_the_training_are_refused(kind: str, full: Path, tmp_path: Path) -> None:
    rows, message = changed(ROWS)[kind]
    with pytest.raises(MismatchError, match=message):
        proponent.build(full, rows, tmp_path / "index", quiet=True)


def test_a_run_that_says_too_little_is_refused_by_name(full: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(full, tmp_path / "run"))
    record = json.loads((folder / "proponent_run.json").read_text())
    (folder / "proponent_run.json").write_text(json.dumps(record | {"kto": {"max_length": 64}}))
    with pytest.raises(RunError, match=r"desirable and undesirable answers \(KTO\)"):
        Run.from_pretrained(folder)
    assert record["kto"]["sync_ref_model"] is False
    for name, value, said in (
        ("processes", 2, "processes=2"),
        ("loss_type", "bco", "loss_type='bco'"),
        ("sync_ref_model", True, "sync_ref_model=True"),
        ("dataloader_drop_last", True, "dataloader_drop_last=True"),
    ):
        (folder / "proponent_run.json").write_text(json.dumps(record | {"kto": record["kto"] | {name: value}}))
        with pytest.raises(RunError, match=said):
            Run.from_pretrained(folder)
    with pytest.raises(DataError, match="row 0 is no judged answer"):
        proponent.build(full, preferences.TEXTS, tmp_path / "pairs", quiet=True)
    run = Run.from_pretrained(full)
    encoder, made = preferences.encoded(run, preferences.JUDGED)
    work = GradientComputer(run, run.load(run.checkpoints[-1]), Gradients(name="rows"), encoder)
    with pytest.raises(InputError, match="build an index and ask that"):
        work.train(made[:1], [-1])
    assert len(judged_batches(run, encoder, read(preferences.JUDGED, allow_empty=True), "rows").batches) == 5


def test_the_commands_read_judged_messages(base: Path, tmp_path: Path, said: Said) -> None:
    preferences.kto(tmp_path / "run", base, preferences.JUDGED_MESSAGES).train()
    data, asked, made = (tmp_path / name for name in ("rows.jsonl", "asked.json", "made.index"))
    data.write_text("".join(json.dumps(row) + "\n" for row in preferences.JUDGED_MESSAGES), encoding="utf-8")
    row = preferences.JUDGED_MESSAGES[3]
    asked.write_text(json.dumps({"prompt": row["prompt"], "completion": row["completion"]}), encoding="utf-8")
    for words in (("plan", tmp_path / "run", data), ("check", tmp_path / "run", data)):
        code, out, err = said(*words)
        assert code == 0, (out, err)
    assert said("index", tmp_path / "run", data, "--out", made, "-q")[0] == 0
    code, out, err = said("explain", made, "--messages", asked, "-k", 2, "--json")
    assert code == 0, err
    by_row = json.loads(out)["proponents"]
    sums = json.loads(said("groups", made, "--messages", asked, "--by", "format", "--json")[1])["groups"]["format"]
    assert sum(one["n"] for one in sums) == len(preferences.JUDGED_MESSAGES) - 1, "one row was not trained on"
    asked.write_text(json.dumps(row["prompt"] + row["completion"]), encoding="utf-8")
    by_messages = json.loads(said("explain", made, "--messages", asked, "-k", 2, "--json")[1])["proponents"]
    assert [(one["id"], one["score"]) for one in by_row] == [(one["id"], one["score"]) for one in by_messages]


def test_an_order_that_cannot_be_checked_is_said(full: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(full, tmp_path / "run"))
    for path in folder.rglob("proponent_rows.safetensors"):
        path.unlink()
    index = proponent.build(folder, ROWS[::-1], tmp_path / "index", quiet=True)
    assert any("their order is taken on trust" in note for note in index.store.manifest.notes)
    kept = proponent.build(full, ROWS, tmp_path / "kept", quiet=True)
    assert not any("their order is taken on trust" in note for note in kept.store.manifest.notes)


def test_words_of_layers_need_the_rows_that_merge_takes_out(full: Path, tmp_path: Path, said: Said) -> None:
    made = proponent.build(full, ROWS, tmp_path / "index", "tracin-all", quiet=True).store.folder
    assert said("delete", made, "--ids", "j3,j7")[0] == 0
    ask = ("explain", made, ROWS[2]["prompt"], "--target", ROWS[2]["completion"], "-k", 1)
    assert said(*ask)[0] == 0
    assert said("merge", made)[0] == 0
    code, _, err = said(*ask)
    assert code == 3
    assert "deleted ones were merged away" in " ".join(err.split())


def test_retraining_is_refused_by_name(full: Path, tmp_path: Path, said: Said) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    code, _, err = said("evaluate", full, rows, "--metric", "lds", "--cache", tmp_path / "cache")
    assert code == 2
    assert "trained on judged answers (KTO)" in " ".join(err.split())
