"""A run whose Trainer smoothed its labels is refused by name, whatever its head."""

from pathlib import Path

import pytest

import answered
import proponent
import runs
from proponent.errors import RunError
from proponent.models import Run
from proponent.models.former import RUN_FILE

SEQ2SEQ = {"decoder_start_token_id": 0, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
HEADS = (
    *("ForSequenceClassification", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering"),
    *("regression", "multi-label", "causal", "seq2seq"),
)


def saved(folder: Path, head: str) -> Path:
    """A model with a head."""
    import transformers

    tokenizer = runs.bert_tokenizer()
    if head == "seq2seq":
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SEQ2SEQ)
        )
    elif head == "causal":
        tokenizer = runs.gpt2_tokenizer()
        model = runs.gpt2(tokenizer)
    elif head.startswith("For"):
        model = answered.model(f"Bert{head}", tokenizer)
    else:
        problem = {"regression": "regression", "multi-label": "multi_label_classification"}[head]
        model = answered.model("BertForSequenceClassification", tokenizer, problem_type=problem, num_labels=2)
    return answered.saved(folder, model, tokenizer)


@pytest.mark.parametrize("head", HEADS)
def test_smoothed_labels_are_refused_for_every_head(head: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, head)
    (folder / RUN_FILE).write_text('{"label_smoothing_factor": 0.0}')
    Run.from_pretrained(folder)
    (folder / RUN_FILE).write_text('{"label_smoothing_factor": 0.1}')
    with pytest.raises(RunError, match=rf"smoothed labels \(label_smoothing_factor 0.1 in .*{RUN_FILE}\)"):
        Run.from_pretrained(folder)


def test_the_model_card_tells_too(tmp_path: Path) -> None:
    folder = saved(tmp_path, "ForSequenceClassification")
    card = "# Card\n\n- learning_rate: 5e-05\n- label_smoothing_factor: {}\n"
    (folder / "README.md").write_text(card.format("0.0"))
    Run.from_pretrained(folder)
    (folder / "README.md").write_text(card.format("0.1"))
    with pytest.raises(RunError, match=r"label_smoothing_factor 0.1 in .*README.md"):
        Run.from_pretrained(folder)


def test_a_training_with_smoothed_labels_is_refused(tmp_path: Path) -> None:
    """The Recorder notes what a real Trainer was told."""
    tokenizer = runs.bert_tokenizer()
    runs.trainer(
        tmp_path / "run",
        runs.bert(tokenizer),
        tokenizer,
        callbacks=[proponent.Recorder()],
        label_smoothing_factor=0.2,
    ).train()
    with pytest.raises(RunError, match=r"label_smoothing_factor 0\.2"):
        Run.from_pretrained(tmp_path / "run")
