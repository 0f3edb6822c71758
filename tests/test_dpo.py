"""DPO: tokens as TRL feeds them, gradients as autograd and the trainer have them, words, questions, refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import chat
import proponent
from proponent.check import check
from proponent.data import read
from proponent.errors import DataError, InputError, MismatchError, ProponentError, RunError
from proponent.gradients.computer import GradientComputer, GradientSpec
from proponent.method import EmbeddingRows, Gradients, Layers, Loss
from proponent.models import Run

pytest.importorskip("trl")
pytest.importorskip("datasets")
preferences = pytest.importorskip("preferences")
pytestmark = pytest.mark.filterwarnings("ignore")

Said = Callable[..., tuple[int, str, str]]
ROWS = [row | {"id": f"p{at}"} for at, row in enumerate(preferences.TEXTS)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preferences.start(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preferences.start(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


def trained(folder: Path, *given: Any, **settings: Any) -> Path:
    preferences.dpo(folder, *given, **settings).train()
    return folder


@pytest.fixture(scope="module")
def full(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("full") / "run", base, preferences.TEXTS, beta=0.3)


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("lora") / "run", base, preferences.TEXTS, beta=0.3, lora=True)


@pytest.fixture(scope="module")
def index(full: Path, tmp_path_factory: pytest.TempPathFactory) -> proponent.Index:
    return proponent.build(full, ROWS, tmp_path_factory.mktemp("dpo") / "index", quiet=True)


# ---- tokens ----


@pytest.mark.parametrize("form", preferences.FORMS)
def test_tokens_are_those_of_the_collated_batch(form: str, base: Path, full: Path, tmp_path: Path) -> None:
    rows = preferences.FORMS[form]
    assert len(rows) == 20
    trainer = preferences.dpo(tmp_path, base, rows)
    theirs: list[Any] = []
    for start in range(0, len(trainer.train_dataset), 4):
        some = [trainer.train_dataset[at] for at in range(start, min(start + 4, len(trainer.train_dataset)))]
        batch = trainer.data_collator(some)
        sides = [
            (ids[mask > 0].tolist(), counts[mask > 0][1:].tolist())
            for ids, mask, counts in zip(
                batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
            )
        ]
        theirs += list(zip(sides[: len(some)], sides[len(some) :], strict=True))
    _, made = preferences.encoded(Run.from_pretrained(full), rows)
    ours = [
        tuple((side.ids.tolist(), side.counted[1:].astype(int).tolist()) for side in one.sides)
        for one in made
        if any(side.counted.any() for side in one.sides)
    ]
    assert ours == theirs
    assert len(ours) == 19, "the prompt of one row fills what the model reads"


# ---- gradients ----


def computed(run: Run, gradient: Any, rows: Any, dtype: torch.dtype = torch.float64) -> tuple[Any, list[Any], Any]:
    """The gradients of rows in one batch, the rows, and the model."""
    encoder, made = preferences.encoded(run, rows)
    made = [one for one in made if any(side.counted.any() for side in one.sides)]
    model = run.load(run.checkpoints[-1]).to(dtype)
    method = Gradients(name="rows", gradient=gradient, objective=Loss(reduction="sum"))
    spec = GradientSpec.of_layers(method, run, model, closed_head=False) if isinstance(gradient, Layers) else None
    return GradientComputer(run, model, method, encoder, spec), made, model


def truth(run: Run, model: Any, one: Any, weight: Any) -> tuple[float, np.ndarray]:
    """Loss and gradient of a pair by autograd; the reference is the base, loaded by itself."""
    reference = preferences.transformers.AutoModelForCausalLM.from_pretrained(
        run.task.reference
        or run.info.base
        or json.loads((run.checkpoints[-1].path / "adapter_config.json").read_text())["base_model_name_or_path"]
    ).to(model.dtype)
    with torch.no_grad():
        known = [
            float(preferences.logps(reference, torch.as_tensor(side.ids), torch.as_tensor(side.counted)))
            for side in one.sides
        ]
    weight.requires_grad_(True)
    loss = preferences.dpo_loss(model, known, one, run.task.beta)
    (found,) = torch.autograd.grad(loss, [weight])
    weight.requires_grad_(False)
    return float(loss.detach()), found.double().numpy()


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_embedding_gradient_of_a_row_is_autograds(kind: str, request: pytest.FixtureRequest) -> None:
    run = Run.from_pretrained(request.getfixturevalue(kind))
    assert (run.task.kind, run.task.beta) == ("DPO", 0.3)
    computer, made, model = computed(run, EmbeddingRows(), preferences.TEXTS)
    batch = computer.train(made, [-1] * len(made))
    assert not batch.bad.any()
    table = model.get_input_embeddings().weight
    for row, one in enumerate(made):
        loss, wanted = truth(run, model, one, table)
        assert batch.losses[row] == pytest.approx(loss, rel=1e-9)
        mine = batch.gradient.rows.example(row)
        dense = np.zeros(wanted.shape)
        np.add.at(dense, mine.ids, mine.rows.astype(np.float64))
        assert np.linalg.norm(dense - wanted) <= 1e-6 * np.linalg.norm(wanted)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_gradient_of_layers_is_autograds(kind: str, request: pytest.FixtureRequest) -> None:
    run = Run.from_pretrained(request.getfixturevalue(kind))
    names = ("lora",) if kind == "lora" else ("all",)
    computer, made, model = computed(run, Layers(names=names), preferences.TEXTS[:8])
    batch = computer.train(made, [-1] * len(made))
    layers = computer.layers
    for block in layers.choice.blocks:
        weight = getattr(model.get_submodule(block.modules[0]), block.part)
        for row, one in enumerate(made):
            _, wanted = truth(run, model, one, weight)
            found = batch.gradient.dense.v[row, layers.projection.cuts[block.name]].reshape(block.o, block.i)
            assert np.linalg.norm(found - wanted.reshape(found.shape)) <= 1e-6 * max(np.linalg.norm(wanted), 1e-6)


def test_a_shared_table_has_both_paths(tied: Path, tmp_path: Path) -> None:
    run = Run.from_pretrained(trained(tmp_path / "run", tied, preferences.TEXTS[:8], beta=0.3))
    computer, made, model = computed(run, EmbeddingRows(path="exact"), preferences.TEXTS[:8])
    batch = computer.train(made, [-1] * len(made))
    head = computer.tables()["head"]
    from proponent.gradients.vocabulary_head import VocabularyHead

    for row, one in enumerate(made):
        _, wanted = truth(run, model, one, model.get_input_embeddings().weight)
        mine = batch.gradient.example(row)
        dense = mine.head.outer(VocabularyHead(head)).dense().astype(np.float64)
        np.add.at(dense, mine.rows.ids, mine.rows.rows.astype(np.float64))
        assert np.linalg.norm(dense - wanted) <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_mean_of_row_gradients_is_the_trainers(kind: str, base: Path, tmp_path: Path) -> None:
    seen = preferences.Grads()
    still = {"learning_rate": 0.0, "max_grad_norm": 0.0, "per_device_train_batch_size": 8, "max_steps": 1}
    folder = trained(tmp_path / "run", base, preferences.TEXTS[:8], seen, lora=kind == "lora", **still)
    run = Run.from_pretrained(folder)
    names = ("lora",) if kind == "lora" else ("all",)
    computer, made, _ = computed(run, Layers(names=names), preferences.TEXTS[:8], torch.float32)
    dense = computer.train(made, [-1] * len(made)).gradient.dense.v.mean(0)
    compared = 0
    for block in computer.layers.choice.blocks:
        wanted = seen.found[
            f"{block.modules[0].replace('.default', '')}.{block.part}".replace("lora_A", "lora_A.default").replace(
                "lora_B", "lora_B.default"
            )
        ].numpy()
        found = dense[computer.layers.projection.cuts[block.name]].reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-4)
        compared += 1
    assert compared == len(computer.layers.choice.blocks) > 1


@pytest.mark.parametrize("kind", ["dora", "ia3", "single tokens", "lora on the embedding", "embedding saved"])
def test_the_reference_of_any_adapter_is_its_base(kind: str, tmp_path: Path) -> None:
    import test_adapter_kinds as kinds

    base = kinds.base_model(tmp_path / "base")
    config, settings = kinds.KINDS[kind]
    folder = kinds.adapter(base, tmp_path / "run", config, **settings)
    (folder / "proponent_run.json").write_text('{"dpo": {"beta": 0.3, "max_length": 24}}')
    run = Run.from_pretrained(folder)
    rows = [{"prompt": "Sales of", "chosen": " the bank", "rejected": " a match"}]
    computer, (one,), model = computed(run, EmbeddingRows(), rows)
    (found,) = computer.completed([one])
    loss, _ = truth(run, model, one, model.get_input_embeddings().weight)
    plain = preferences.transformers.AutoModelForCausalLM.from_pretrained(base).double()
    with torch.no_grad():
        both = [preferences.logps(plain, *(torch.as_tensor(x) for x in (side.ids, side.counted))) for side in one.sides]
    np.testing.assert_allclose(found.answer, [float(value) for value in both], rtol=1e-9)
    assert computer.train([one], [-1]).losses[0] == pytest.approx(loss, rel=1e-9)


def test_columns_of_the_reference_take_its_place(full: Path) -> None:
    run = Run.from_pretrained(full)
    given = [row | {"ref_chosen_logps": -3.5, "ref_rejected_logps": -4.0} for row in preferences.TEXTS[:3]]
    computer, made, model = computed(run, EmbeddingRows(), given)
    losses = computer.train(made, [-1] * 3).losses
    wanted = [float(preferences.dpo_loss(model, (-3.5, -4.0), one, 0.3)) for one in made]
    np.testing.assert_allclose(losses, wanted, rtol=1e-9)
    assert "reference" not in vars(run), "it was not loaded"


# ---- an index ----


def test_check_passes(full: Path) -> None:
    found = check(Run.from_pretrained(full), read(ROWS, allow_empty=True))
    assert [(one.name, one.value) for one in found if one.passed is False] == []


@pytest.mark.parametrize("method", ["tracin-we", "grad-cos", "tracin-last", "ekfac"])
def test_words_of_both_answers_sum_to_the_score(method: str, full: Path, tmp_path: Path) -> None:
    index = proponent.build(full, ROWS, tmp_path / "index", method=method, quiet=True)
    (skipped,) = index.store.manifest.skipped
    assert (skipped.id, skipped.cause) == ("p17", "not trained on: no token of it counts")
    for asked in ({"text": chat.SAID[0], "target": chat.SAID[1]}, ROWS[3]):
        why = index.explain(asked, k=4, baselines=False)
        for hit in (*why.proponents, *why.opponents):
            assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, rel=1e-4, abs=1e-9)


def test_a_pair_is_its_own_best_proponent(full: Path, tmp_path: Path) -> None:
    index = proponent.build(full, ROWS, tmp_path / "index", method="grad-cos", quiet=True)
    for at in (0, 9, 15):
        row = {name: ROWS[at][name] for name in ("prompt", "chosen", "rejected")}
        assert index.explain(row, k=1, baselines=False).proponents[0].id == f"p{at}"


def test_counted_tokens_are_those_of_both_answers(index: proponent.Index, full: Path) -> None:
    _, rows = preferences.encoded(Run.from_pretrained(full), ROWS)
    wanted = [int(one.counted.sum()) + int(one.rejected.counted.sum()) for one in rows]
    assert index.store.features["counted"].tolist() == wanted


def test_the_sign_follows_the_side(index: proponent.Index) -> None:
    """Asked why it gives the chosen answer, the pair helps; asked for the rejected one, it hurts."""
    row = ROWS[9]
    chosen, rejected = ({"text": row["prompt"], "target": row[side]} for side in ("chosen", "rejected"))
    scores = index.scores([chosen, rejected])[:, 9]
    assert scores[0] > 0 > scores[1]


def test_both_answers_are_named(index: proponent.Index, tmp_path: Path, said: Said) -> None:
    why = index.explain(ROWS[9], k=2, baselines=False)
    assert why.query.turns is not None
    assert [turn.head for turn in why.query.turns] == ["prompt", "chosen · counts", "rejected · counts"]
    sides = {pair.train_side for hit in (*why.proponents, *why.opponents) for pair in hit.words}
    assert {None, "chosen", "rejected"} <= sides
    why.save(tmp_path / "why.html")
    page = (tmp_path / "why.html").read_text()
    assert "chosen · counts" in page
    assert "rejected · counts" in page
    assert "(rejected)" in page
    (tmp_path / "pair.json").write_text(json.dumps(ROWS[9]))
    code, out, err = said("explain", index.store.folder, "--messages", tmp_path / "pair.json", "--no-baselines")
    assert code == 0, err
    assert "chosen · counts" in out
    found = proponent.Explanation.from_dict(json.loads(why.to_json()))
    assert found.to_dict() == why.to_dict()


def test_pairs_of_messages_name_their_sides(base: Path, tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", base, preferences.MESSAGES)
    rows = [row | {"id": f"m{at}"} for at, row in enumerate(preferences.MESSAGES)]
    index = proponent.build(folder, rows, tmp_path / "index", quiet=True)
    why = index.explain(chat.SAID[0], target=chat.SAID[1], k=1, baselines=False)
    assert [turn.head for turn in why.query.turns or ()] == ["user", "assistant · counts"]
    heads = [turn.head for turn in why.proponents[0].turns or ()]
    assert heads == ["user", "chosen · assistant · counts", "rejected · assistant · counts"]


# ---- settings and refusals ----


def noted(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    held = json.loads((copy / "proponent_run.json").read_text())
    (copy / "proponent_run.json").write_text(json.dumps(held | {"dpo": held["dpo"] | changes}))
    return copy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss_type", ["ipo"]),
        ("loss_type", ["sigmoid", "sft"]),
        ("label_smoothing", 0.1),
        ("f_divergence_type", "js_divergence"),
        ("ld_alpha", 0.5),
        ("use_weighting", True),
        ("sync_ref_model", True),
        ("truncation_mode", "keep_end"),
    ],
)
def test_another_loss_is_refused_by_its_setting(name: str, value: Any, full: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"{name}=.*another loss"):
        Run.from_pretrained(noted(full, tmp_path, **{name: value}))


def test_without_a_note_the_defaults_are_stated_and_the_reference_must_be_named(
    full: Path, base: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(full, tmp_path / "copy"))
    (copy / "proponent_run.json").unlink()
    (copy / "proponent_rows.safetensors").unlink()
    run = Run.from_pretrained(copy)
    assert (run.task.kind, run.task.beta) == ("DPO", 0.1)
    with pytest.raises(RunError, match=r"compares with the model that training began with.*--base"):
        proponent.build(run, ROWS, tmp_path / "a", quiet=True)
    named = proponent.build(Run.from_pretrained(copy, base=base), ROWS, tmp_path / "b", quiet=True)
    assert any("beta is 0.1" in note for note in named.store.manifest.notes)
    assert proponent.open(tmp_path / "b").explain(ROWS[0], k=1, baselines=False).proponents


def test_settings_may_be_stated_by_hand(full: Path, base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(full, tmp_path / "copy"))
    (copy / "proponent_rows.safetensors").unlink()
    (copy / "README.md").unlink()
    stated = {"dpo": {"beta": 0.7, "max_length": 48}}
    (copy / "proponent_run.json").write_text(json.dumps(stated))
    run = Run.from_pretrained(copy, base=base)
    index = proponent.build(run, ROWS, tmp_path / "index", quiet=True)
    assert (run.task.beta, index.store.plan.max_length) == (0.7, 48)
    (copy / "proponent_run.json").write_text(json.dumps({"dpo": {"beta": "much"}}))
    with pytest.raises(RunError, match="beta is 'much', not a number"):
        Run.from_pretrained(copy, base=base)


def test_an_adapter_that_was_trained_on_needs_the_columns(lora: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lora, tmp_path / "copy"))
    for checkpoint in copy.glob("checkpoint-*"):
        shutil.copytree(copy / checkpoint.name, tmp_path / "ref", dirs_exist_ok=True)
        shutil.copytree(tmp_path / "ref", checkpoint / "ref")
    with pytest.raises(RunError, match=r"holds an adapter ref.*give the columns ref_chosen_logps"):
        proponent.build(copy, ROWS, tmp_path / "index", quiet=True)


def test_retraining_is_refused(full: Path, tmp_path: Path, said: Said) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    data = str(tmp_path / "rows.jsonl")
    code, _, err = said("evaluate", full, data, "--queries", data, "--metric", "lds", "--subsets", "2")
    assert code == 2, err
    assert "trained on judged answers (DPO)" in " ".join(err.split())


def test_another_beta_is_another_run(index: proponent.Index, full: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError):
        proponent.open(index.store.folder, run=noted(full, tmp_path, beta=0.5)).explain(ROWS[0], k=1)


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"prompt": "a", "completion": "b", "label": True}, InputError, "KTO"),
        ({"text": "one text"}, DataError, "trained on pairs of answers"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}, DataError, "margin"),
        ({"prompt": "new", "chosen": "row", "rejected": "x"}, MismatchError, "row 0"),
    ],
)
def test_other_rows_are_refused(
    row: dict[str, Any], error: type[ProponentError], message: str, full: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        proponent.build(full, [row], tmp_path / "index", quiet=True)


def test_a_fisher_matrix_of_sampled_labels_is_refused(full: Path, tmp_path: Path) -> None:
    how = {"method": "ekfac", "set": {"fisher": "sampled"}, "quiet": True}
    with pytest.raises(InputError, match="a DPO model has no labels that a Fisher matrix could sample"):
        proponent.build(full, ROWS, tmp_path / "index", **how)
