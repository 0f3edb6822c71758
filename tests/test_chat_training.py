"""Trainings by TRL: what the Recorder notes, how an index follows it, and gradients that are the trainer's own."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import chat
import proponent
from proponent.cost import forecast
from proponent.data import read
from proponent.errors import InputError, MismatchError, RunError
from proponent.gradients.computer import GradientComputer
from proponent.method import EmbeddingRows, Gradients, Loss
from proponent.method_table import method_of
from proponent.models import Run
from proponent.models.batch_record import read_batch_record
from proponent.models.counting import rules_of

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = [{"id": f"d{number}", "messages": one} for number, one in enumerate(chat.DIALOGUES)]


def llama(tokenizer: Any, width: int = 16) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)


def trained(
    folder: Path,
    rows: Any,
    *callbacks: Any,
    template: str = chat.MARKED,
    texts: Any = chat.SAID,
    width: int = 16,
    **settings: Any,
) -> Path:
    tokenizer = chat.tokenizer(template, texts=texts)
    settings = {"max_length": 48, "num_train_epochs": 1, "learning_rate": 1e-2, "save_strategy": "epoch"} | settings
    arguments = trl.SFTConfig(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        gradient_checkpointing=False,
        bf16=False,
        **({"per_device_train_batch_size": 4} | settings),
    )
    trl.SFTTrainer(
        model=llama(tokenizer, width),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[*callbacks, proponent.Recorder()],
    ).train()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty conversations, only the assistant's tokens count; the answer of one is cut off."""
    return trained(tmp_path_factory.mktemp("chat") / "run", ROWS, assistant_only_loss=True)


@pytest.fixture(scope="module")
def index(run: Path, tmp_path_factory: pytest.TempPathFactory) -> proponent.Index:
    return proponent.build(run, ROWS, tmp_path_factory.mktemp("chat") / "index", "tracin-we", quiet=True)


# ---- the Recorder's note ----


def test_the_note_says_how_tokens_were_counted(run: Path) -> None:
    note = json.loads((run / "proponent_run.json").read_text())["sft"]
    assert (note["assistant_only"], note["max_length"], note["packing"]) == (True, 48, "")
    assert note["template"] == chat.MARKED
    record = read_batch_record(run)
    assert record is not None
    assert len(record.rows) == len(record.seen) == 19
    assert record.ends.tolist() == [4, 8, 12, 16, 19]
    encoder = proponent.Run.from_pretrained(run).encoder(48, counting=rules_of(Run.from_pretrained(run), "messages")[0])
    assert sum(int(one.counted.sum()) for one in encoder.encode(read(ROWS))) == int(record.counted.sum())


def test_an_index_follows_the_note(index: proponent.Index) -> None:
    plan = index.store.plan
    assert plan.counting is not None
    assert (plan.counting.assistant_only, plan.max_length, plan.reduction) == (True, 48, "sum")
    assert plan.counting.source.startswith("recorder")
    record = read_batch_record(Path(plan.run))
    assert record is not None
    rate = plan.checkpoints[0].learning_rate
    assert plan.checkpoints[0].weight == pytest.approx(rate / record.counted.mean())


def test_a_plan_lists_the_rows_that_were_not_trained_on(run: Path) -> None:
    told = forecast(Run.from_pretrained(run), read(ROWS), method_of("tracin-we"))
    line = "1 training rows were not trained on, as none of their first 48 tokens counts; no score: ids d18"
    assert line in told.notes
    few = forecast(Run.from_pretrained(run), read(ROWS[:10]), method_of("tracin-we"))
    assert not any("not trained on" in note for note in few.notes)


def test_a_row_whose_answer_was_cut_off_is_listed_without_a_score(index: proponent.Index) -> None:
    (skipped,) = index.store.manifest.skipped
    assert (skipped.id, skipped.cause) == ("d18", "not trained on: no token of it counts")
    assert any("1 training rows were not trained on" in line and "d18" in line for line in index.store.manifest.notes)
    assert np.isnan(index.scores([{"messages": chat.DIALOGUES[0]}])[0, 18])
    assert index.store.example(18).content == read(ROWS)[18].content


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "max_length": ({"max_length": 32}, r"max_length was 48 and is 32 here"),
    "whole": ({"assistant_only": False}, r"row 0 \(id d0\).*assistant-only loss was True and is False"),
    "template": ({"chat_template": chat.MARKED.replace("assistant\\n", "bot\\n")}, r"row 0.*chat template was"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_another_way_of_counting_is_refused_with_the_first_row(wrong: str, run: Path, tmp_path: Path) -> None:
    options, message = WRONG[wrong]
    with pytest.raises(MismatchError, match=message):
        proponent.build(run, ROWS, tmp_path / "index", quiet=True, **options)


def test_rows_that_were_not_fed_are_refused(run: Path, tmp_path: Path) -> None:
    other = [*ROWS[:2], {"id": "new", "messages": [chat.user("new"), chat.assistant("row")]}]
    with pytest.raises(MismatchError, match=r"row 2 \(id new\) is not among the rows"):
        proponent.build(run, other, tmp_path / "index", quiet=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"packing": "wrapped"}, r"packed its rows by 'wrapped'"), ({"loss_type": "dft"}, r"dft")],
)
def test_trainings_whose_rows_have_no_gradient_of_their_own_are_refused(
    change: dict[str, str], message: str, run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    held = json.loads((copy / "proponent_run.json").read_text())
    (copy / "proponent_run.json").write_text(json.dumps(held | {"sft": held["sft"] | change}))
    with pytest.raises(RunError, match=message):
        proponent.build(copy, ROWS, tmp_path / "index", quiet=True)


def test_without_a_note_the_defaults_are_stated(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "proponent_run.json").unlink()
    (copy / "proponent_rows.safetensors").unlink()
    found = rules_of(Run.from_pretrained(copy), "completion")
    assert found.counting is not None
    assert found.counting.completion_only
    (line,) = found.notes
    assert "README.md says that TRL trained it" in line or "does not say" in line
    assert "the completion counts" in line
    assert "the first 256 tokens are read" in line, "all positions of the model, fewer than TRL's 1,024"


# ---- gradients ----

FEW = [{"messages": one} for one in chat.DIALOGUES[:8]]


class Grads(transformers.TrainerCallback):
    """Keeps the gradient of the word embedding at the first step."""

    grad: torch.Tensor | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self.grad is None:
            self.grad = kwargs["model"].get_input_embeddings().weight.grad.clone()


SETTINGS: dict[str, dict[str, Any]] = {
    "one batch": {"per_device_train_batch_size": 8},
    "accumulation of 4": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "assistant only": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "assistant_only_loss": True},
    "packed": {"per_device_train_batch_size": 8, "packing": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_sum_of_row_gradients_over_the_counted_tokens_is_the_trainers(name: str, tmp_path: Path) -> None:
    seen = Grads()
    folder = trained(tmp_path / "run", FEW, seen, learning_rate=0.0, max_grad_norm=0.0, **SETTINGS[name])
    opened = Run.from_pretrained(folder)
    rules, record = rules_of(opened, "messages"), read_batch_record(folder)
    assert record is not None
    assert record.ends.tolist() == [8]
    encoder = opened.encoder(rules.max_length, counting=rules.counting)
    model = opened.load(opened.checkpoints[-1])
    method = Gradients(name="rows", gradient=EmbeddingRows(), objective=Loss(reduction="sum"))
    found = GradientComputer(opened, model, method, encoder).train(encoder.encode(read(FEW)), [-1] * 8).gradient.rows
    assert found is not None
    total = np.zeros((len(opened.tokenizer), 16))
    np.add.at(total, found.ids, found.rows)
    assert seen.grad is not None
    np.testing.assert_allclose(total / int(record.counted[0]), seen.grad.numpy(), atol=1e-6, rtol=1e-5)


# ---- asking ----


def question(text: str = chat.SAID[0]) -> list[dict[str, Any]]:
    return [chat.user(text)]


def test_a_plain_question_is_asked_as_a_user_asks_it(index: proponent.Index) -> None:
    plain = index.explain(chat.SAID[0], target=chat.SAID[1], k=3, baselines=False)
    said = index.explain(messages=[*question(), chat.assistant(chat.SAID[1])], k=3, baselines=False)
    given = index.explain(messages=question(), target=chat.SAID[1], k=3, baselines=False)
    assert plain.to_dict() == said.to_dict() == given.to_dict()
    (many,) = index.explain_many([{"text": chat.SAID[0], "target": chat.SAID[1]}], k=3, baselines=False)
    assert many.to_dict() == plain.to_dict()
    assert plain.query.turns is not None
    assert [one.head for one in plain.query.turns] == ["user", "assistant · counts"]


def test_words_have_their_places_in_turns_and_sum_to_the_score(index: proponent.Index) -> None:
    why = index.explain(messages=chat.DIALOGUES[0], k=5, baselines=False)
    for hit in why.proponents:
        assert sum(one.share for one in hit.words) == pytest.approx(hit.score, rel=1e-6)
        assert all(not one.markup for one in hit.shown_words)
        for one in hit.words:
            assert one.train_spans == ()
            for turn, start, end in one.train_turn_spans or ():
                assert (hit.turns or ())[turn].text[start:end] == one.train_word
    marked = [one for hit in why.proponents for one in hit.words if one.markup]
    assert any(one.train_word == one.query_word == "[template]" for one in marked)


def test_a_span_alone_counts(index: proponent.Index) -> None:
    whole = index.explain(messages=chat.DIALOGUES[0], k=1, baselines=False)
    piece = index.explain(messages=chat.DIALOGUES[0], span="silver heron", k=1, baselines=False)
    assert piece.query.turns is not None
    ((start, end),) = piece.query.turns[-1].counted
    assert chat.SAID[1][start:end].strip() == "silver heron"
    assert (piece.query.loss or 0) < (whole.query.loss or 0)
    with pytest.raises(InputError, match=r"the span 'golden' does not stand in the answer"):
        index.explain(messages=chat.DIALOGUES[0], span="golden")
    twice = index.explain(chat.SAID[0], target="heron, heron", span="heron", k=1, baselines=False)
    assert "the span 'heron' stands 2 times in the answer: the first one counts" in twice.notes


def test_an_answer_against_another_is_the_difference_of_scores(index: proponent.Index) -> None:
    both = [{"messages": question(), "target": one} for one in (chat.SAID[1], chat.SAID[3])]
    scores = index.scores(both)
    why = index.explain(messages=question(), target=chat.SAID[1], against_target=chat.SAID[3], k=3, baselines=False)
    best = np.sort(np.nan_to_num(scores[0] - scores[1]))[::-1][:3]
    assert [hit.score for hit in why.proponents] == pytest.approx(best[best > 0].tolist(), rel=1e-4)
    assert why.proponents[0].score == pytest.approx(sum(one.share for one in why.proponents[0].words))
    assert any("minus that of another one" in line for line in why.notes)


def test_the_model_can_write_the_answer(index: proponent.Index) -> None:
    why = index.explain(chat.SAID[0], generate=True, k=1, baselines=False)
    assert why.query.turns is not None
    assert why.query.turns[-1].text
    assert "the model wrote the answer" in why.notes[0]
    with pytest.raises(InputError, match="has an answer already"):
        index.explain(chat.SAID[0], target="x", generate=True)


ASKED_BADLY: dict[str, tuple[dict[str, Any], str]] = {
    "no answer": ({"messages": [chat.user("a")]}, "end without an answer"),
    "an empty answer": ({"messages": [chat.user("a"), chat.assistant(" ")]}, "last turn is empty"),
    "two answers": ({"messages": chat.DIALOGUES[0], "target": "x"}, "leave one of them out"),
    "no messages": ({"messages": []}, "give a list of"),
    "nothing": ({}, "either a text or messages"),
    "no role": ({"messages": [{"content": "a"}]}, "message 0 is"),
    "an empty target": ({"text": "a", "target": " "}, "target of the query with id 0 is empty"),
    "a second text": ({"text": "a", "target": "b", "text_pair": "c"}, "second text, and this model reads chats"),
}


@pytest.mark.parametrize("name", ASKED_BADLY)
def test_a_bad_question_is_refused(name: str, index: proponent.Index) -> None:
    options, message = ASKED_BADLY[name]
    with pytest.raises(InputError, match=message):
        index.explain(**options)


# ---- views and files ----


def test_views_show_turns_and_never_markup(index: proponent.Index, tmp_path: Path, capsys: Any) -> None:
    from rich.console import Console

    from proponent.views.terminal import print_answer

    system = {"role": "system", "content": "Be brief."}
    why = index.explain(messages=[system, *chat.DIALOGUES[0]], k=3, baselines=False)
    print_answer(why, Console(width=100))
    why.save(tmp_path / "why.html")
    page, printed = (tmp_path / "why.html").read_text(), capsys.readouterr().out
    for shown in (page, printed, why.to_json()):
        assert "im_start" not in shown
        assert "assistant" in shown
    assert '<details class="wh-turn"><summary><span class="wh-role"><bdi>system' in page
    assert "assistant · counts" in printed
    assert proponent.Explanation.from_dict(json.loads(why.to_json())).to_dict() == why.to_dict()


def test_the_explorer_shows_an_example_by_turns(index: proponent.Index) -> None:
    from explorer import Browser
    from proponent.web.states import ExampleState

    browser = Browser(index.store.folder)
    try:
        page = browser.get(ExampleState(id="d16").url("/example"))
    finally:
        browser.close()
    assert '<details class="wh-turn"><summary><span class="wh-role"><bdi>system' in page.text
    assert page.text.count('<div class="wh-turn') == 5  # four turns in their list
    assert "im_start" not in page.text


def test_the_command_asks_with_a_file_of_messages(index: proponent.Index, tmp_path: Path, capsys: Any) -> None:
    from proponent.cli import main

    (tmp_path / "asked.json").write_text(json.dumps(chat.DIALOGUES[0]))
    asked = ["explain", str(index.store.folder), "--messages", str(tmp_path / "asked.json"), "--json", "--no-baselines"]
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--span", "silver heron", "-q"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["query"]["turns"][-1]["text"] == chat.SAID[1]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_apply_writes_the_conversations_back(suffix: str, index: proponent.Index, tmp_path: Path) -> None:
    from proponent.actions.corrections import apply
    from proponent.actions.decisions import Decisions

    path = tmp_path / f"kept{suffix}"
    assert apply(index.store, Decisions(index.store.folder, None), path).rows == 20
    found = read(path)
    assert [(one.id, one.content) for one in found] == [(one.id, one.content) for one in read(ROWS)]
