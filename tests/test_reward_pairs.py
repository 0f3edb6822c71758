"""Reward models trained on pairs by TRL: tokens as fed, gradients as autograd and the trainer have them, questions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import chat
import proponent
from proponent.check import check
from proponent.data import read
from proponent.errors import DataError, InputError, LabelError, MismatchError, ProponentError, RunError
from proponent.gradients.computer import GradientComputer, GradientSpec
from proponent.method import EmbeddingRows, Gradients, Layers
from proponent.models import Run

pytest.importorskip("trl")
pytest.importorskip("datasets")
preferences = pytest.importorskip("preferences")
pytestmark = pytest.mark.filterwarnings("ignore")

Said = Callable[..., tuple[int, str, str]]
ROWS = [row | {"id": f"p{at}", "margin": at / 10} for at, row in enumerate(preferences.TEXTS)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preferences.start(tmp_path_factory.mktemp("base"))


def trained(folder: Path, base: Path, rows: Any, *callbacks: Any, **settings: Any) -> Path:
    preferences.reward(folder, base, rows, *callbacks, **settings).train()
    return folder


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "run"
    return trained(folder, base, ROWS, center_rewards_coefficient=0.05)


@pytest.fixture(scope="module")
def index(run: Path, tmp_path_factory: pytest.TempPathFactory) -> proponent.Index:
    return proponent.build(run, ROWS, tmp_path_factory.mktemp("reward") / "index", quiet=True)


@pytest.mark.parametrize("form", preferences.FORMS)
def test_tokens_are_those_of_the_collated_batch(form: str, base: Path, run: Path, tmp_path: Path) -> None:
    rows = preferences.FORMS[form]
    assert len(rows) == 20
    trainer = preferences.reward(tmp_path, base, rows)
    theirs: list[Any] = []
    kept = trainer.train_dataset.select_columns(["chosen_ids", "rejected_ids"])
    for start in range(0, len(kept), 4):
        some = [kept[at] for at in range(start, min(start + 4, len(kept)))]
        batch = trainer.data_collator(some)
        both = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        sides = [ids[mask > 0].tolist() for ids, mask in both]
        theirs += list(zip(sides[: len(some)], sides[len(some) :], strict=True))
    _, made = preferences.encoded(Run.from_pretrained(run), rows)
    ours = [tuple(side.ids.tolist() for side in one.sides) for one in made if one.counted.any()]
    assert ours == theirs
    assert len(ours) < 20, "pairs with a text that is too long are dropped"


def wanted_loss(model: Any, one: Any, margin: float, center: float) -> torch.Tensor:
    chosen, rejected = (model(input_ids=torch.as_tensor(side.ids)[None]).logits[0, 0] for side in one.sides)
    return -functional.logsigmoid(chosen - rejected - margin) + center * (chosen + rejected) ** 2


@pytest.mark.parametrize("gradient", [EmbeddingRows(), Layers(names=("all",))], ids=["rows", "layers"])
def test_gradients_of_a_row_are_autograds(gradient: Any, run: Path) -> None:
    opened = Run.from_pretrained(run)
    assert (opened.task.kind, opened.task.center) == ("reward-pairs", 0.05)
    encoder, made = preferences.encoded(opened, ROWS)
    kept = [(one, row["margin"]) for one, row in zip(made, ROWS, strict=True) if one.counted.any()]
    model = opened.load(opened.checkpoints[-1]).double()
    method = Gradients(name="g", gradient=gradient)
    spec = GradientSpec.of_layers(method, opened, model) if isinstance(gradient, Layers) else None
    computer = GradientComputer(opened, model, method, encoder, spec)
    batch = computer.train([one for one, _ in kept], [-1] * len(kept))
    assert not batch.bad.any()
    named = {"table": model.get_input_embeddings().weight}
    if computer.layers is not None:
        blocks = computer.layers.choice.blocks
        named = {one.name: getattr(model.get_submodule(one.modules[0]), one.part) for one in blocks}
    for row, (one, margin) in enumerate(kept):
        for weight in named.values():
            weight.requires_grad_(True)
        loss = wanted_loss(model, one, margin, 0.05)
        grads = torch.autograd.grad(loss, list(named.values()))
        for weight in named.values():
            weight.requires_grad_(False)
        assert batch.losses[row] == pytest.approx(float(loss.detach()), rel=1e-9)
        for name, grad in zip(named, grads, strict=True):
            wanted = grad.numpy()
            if computer.layers is None:
                mine, found = batch.gradient.rows.example(row), np.zeros(wanted.shape)
                np.add.at(found, mine.ids, mine.rows.astype(np.float64))
            else:
                found = batch.gradient.dense.v[row, computer.layers.projection.cuts[name]].reshape(wanted.shape)
            assert np.linalg.norm(found - wanted) <= 1e-6 * max(np.linalg.norm(wanted), 1e-3)


def test_the_mean_of_row_gradients_is_the_trainers(base: Path, tmp_path: Path) -> None:
    seen = preferences.Grads()
    still = {"learning_rate": 0.0, "max_grad_norm": 0.0, "per_device_train_batch_size": 8, "max_steps": 1}
    opened = Run.from_pretrained(trained(tmp_path / "run", base, ROWS[:8], seen, **still))
    encoder, made = preferences.encoded(opened, ROWS[:8])
    model = opened.load(opened.checkpoints[-1])
    rows = GradientComputer(opened, model, Gradients(name="g"), encoder).train(made, [-1] * 8).gradient.rows
    total = np.zeros((len(opened.tokenizer), 16))
    np.add.at(total, rows.ids, rows.rows)
    np.testing.assert_allclose(total / 8, seen.found["model.embed_tokens.weight"].numpy(), atol=1e-6, rtol=1e-4)


def test_an_adapter_of_a_reward_model(base: Path, tmp_path: Path) -> None:
    import peft

    adapter = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS", modules_to_save=["score"])
    trainer = preferences.reward(tmp_path / "run", base, ROWS[:8], peft_config=adapter)
    trainer.train()
    opened = Run.from_pretrained(tmp_path / "run")
    assert (opened.task.kind, opened.info.adapter) == ("reward-pairs", True)
    encoder, made = preferences.encoded(opened, ROWS[:8])
    model = opened.load(opened.checkpoints[-1]).double()
    rows = GradientComputer(opened, model, Gradients(name="g"), encoder).train(made, [-1] * 8).gradient.rows
    table = model.get_input_embeddings().weight
    for row, one in enumerate(made):
        table.requires_grad_(True)
        (grad,) = torch.autograd.grad(wanted_loss(model, one, ROWS[row]["margin"], 0.0), [table])
        table.requires_grad_(False)
        mine, found = rows.example(row), np.zeros(tuple(table.shape))
        np.add.at(found, mine.ids, mine.rows.astype(np.float64))
        assert np.linalg.norm(found - grad.numpy()) <= 1e-6 * np.linalg.norm(grad.numpy())


def test_check_passes(run: Path) -> None:
    found = check(Run.from_pretrained(run), read(ROWS, allow_empty=True))
    assert [(one.name, one.value) for one in found if one.passed is False] == []


def test_a_pair_helps_the_reward_of_its_chosen_answer(index: proponent.Index) -> None:
    """By the product of gradients: raising its reward lowers the loss of the pair, and the other way round."""
    row = ROWS[9]
    chosen, rejected = ({"text": row["prompt"], "target": row[side]} for side in ("chosen", "rejected"))
    whole = index.scores([row, chosen, rejected])[:, 9]
    assert whole[0] > 0
    assert whole[1] > whole[2]


def test_questions_words_and_pages(index: proponent.Index, tmp_path: Path, said: Said) -> None:
    why = index.explain(ROWS[9], k=3, baselines=False)
    heads = [turn.head for turn in why.query.turns or ()]
    assert heads == ["prompt · counts in part", "chosen · counts", "rejected · counts"], "nothing predicts the first"
    for asked in (ROWS[9], {"text": chat.SAID[0], "target": chat.SAID[1]}, {"text": chat.SAID[1]}):
        answer = index.explain(asked, k=3, baselines=False)
        for hit in (*answer.proponents, *answer.opponents):
            assert sum(pair.share for pair in hit.words) == pytest.approx(hit.score, rel=1e-4, abs=1e-9)
    assert {pair.train_side for pair in why.proponents[0].words} <= {None, "chosen", "rejected"}
    why.save(tmp_path / "why.html")
    assert "rejected · counts" in (tmp_path / "why.html").read_text()
    code, out, err = said("explain", index.store.folder, chat.SAID[0], "--target", chat.SAID[1], "--no-baselines")
    assert code == 0, err
    assert "towards this text" in out
    with pytest.raises(LabelError, match="this run is a reward-pairs model and has no labels"):
        index.explain(chat.SAID[0], label="good")
    with pytest.raises(InputError, match="writes no text"):
        index.explain(chat.SAID[0], generate=True)


def test_rows_that_training_dropped_are_listed(index: proponent.Index) -> None:
    assert {one.cause for one in index.store.manifest.skipped} == {"not trained on: no token of it counts"}
    assert {one.id for one in index.store.manifest.skipped} == {"p17", "p18"}


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"prompt": "a", "completion": "b", "label": True}, InputError, "KTO"),
        ({"text": "one text", "label": 1.0}, DataError, "trained on pairs of answers"),
        ({"prompt": "new", "chosen": "row", "rejected": "x"}, MismatchError, "row 0"),
    ],
)
def test_other_rows_are_refused(
    row: dict[str, Any], error: type[ProponentError], message: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        proponent.build(run, [row], tmp_path / "index", quiet=True)


def test_a_model_without_a_pad_token_is_refused(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    for path in copy.glob("checkpoint-*/config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token_id": None}))
    with pytest.raises(RunError, match="pad_token_id"):
        Run.from_pretrained(copy)
