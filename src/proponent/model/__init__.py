"""Where models come from: runs, checkpoints, tasks, tokenization."""

from proponent.model.batch import Batch, Kind
from proponent.model.checkpoints import Checkpoint
from proponent.model.drawing import Draws
from proponent.model.encoding import Encoded, Encoder, encoded_bytes
from proponent.model.masking import Masks
from proponent.model.run import Run
from proponent.model.steps import Steps, digest, read_steps
from proponent.model.task import CausalLM, Classification, Tokens

__all__ = [
    "Batch",
    "CausalLM",
    "Checkpoint",
    "Classification",
    "Draws",
    "Encoded",
    "Encoder",
    "Kind",
    "Masks",
    "Run",
    "Steps",
    "Tokens",
    "digest",
    "encoded_bytes",
    "read_steps",
]
