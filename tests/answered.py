"""Tiny models whose answer is no class and no token, their data, and what transformers computes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from proponent.gradients.capture import Capture
from proponent.models import Encoded, Encoder, Run
from proponent.models.scratch import wordpiece

LONGEST = 64


def model(name: str, tokenizer: Any, **settings: Any) -> Any:
    """A BERT or a Llama with some head, in evaluation mode."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": LONGEST, "pad_token_id": tokenizer.pad_token_id}
    kind = transformers.BertConfig if name.startswith("Bert") else transformers.LlamaConfig
    return getattr(transformers, name)(kind(**sizes, **settings)).eval()


def saved(folder: Path, made: Any, tokenizer: Any) -> Path:
    """A folder of a single model."""
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tokenizer_of(rows: Sequence[dict[str, Any]], *columns: str) -> Any:
    return wordpiece([str(row[name]) for row in rows for name in columns], 400, LONGEST)


def encoded(run: Run, examples: Any) -> tuple[Encoder, list[Encoded]]:
    encoder = run.encoder(LONGEST)
    return encoder, encoder.encode(list(examples))


def compare(run: Run, examples: Any, their_labels: Any) -> None:
    """Losses and gradients of a batch against transformers' own loss of each example, in float64."""
    model = run.load(run.checkpoints[-1]).double()
    encoder, made = encoded(run, examples)
    batch = encoder.collate(made, [-1] * len(made))
    found = Capture(model)(batch.inputs, run.task.objective(batch).losses, batch.words)
    table = model.get_input_embeddings().weight
    for row, one in enumerate(made):
        inputs = {"input_ids": torch.as_tensor(one.ids)[None]}
        if one.type_ids is not None:
            inputs["token_type_ids"] = torch.as_tensor(one.type_ids)[None]
        table.requires_grad_(True)
        loss = model(**inputs, **their_labels(row, one)).loss
        (wanted,) = torch.autograd.grad(loss, [table])
        table.requires_grad_(False)
        assert abs(found.losses[row] - float(loss.detach())) <= 1e-6 * max(1.0, float(loss.detach()))
        mine = found.rows.example(row)
        dense = np.zeros(tuple(table.shape))
        np.add.at(dense, mine.ids, mine.rows.astype(np.float64))
        assert np.linalg.norm(dense - wanted.numpy()) <= 1e-6 * np.linalg.norm(wanted.numpy())


def train(made: Any, rows: Sequence[dict[str, Any]], steps: int = 40, rate: float = 5e-3) -> Any:
    """Some steps of Adam over padded batches of rows: token ids, types and labels."""
    made.train()
    optimizer = torch.optim.Adam(made.parameters(), rate)
    for step in range(steps):
        picked = [rows[place] for place in np.random.default_rng(step).choice(len(rows), 16)]
        batch = {name: padded([row[name] for row in picked], -100 if name == "labels" else 0) for name in picked[0]}
        optimizer.zero_grad()
        made(**batch).loss.backward()
        optimizer.step()
    return made.eval()


def padded(values: Sequence[Any], fill: int) -> torch.Tensor:
    if not isinstance(values[0], list):
        return torch.tensor(values)
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in values], batch_first=True, padding_value=fill)
