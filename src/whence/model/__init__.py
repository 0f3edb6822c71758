"""Where models come from: runs, checkpoints, tasks, tokenization."""

from whence.model.batch import Batch, Kind
from whence.model.checkpoints import Checkpoint
from whence.model.drawing import Draws
from whence.model.encoding import Encoded, Encoder, encoded_bytes
from whence.model.masking import Masks
from whence.model.run import Run
from whence.model.steps import Steps, digest, read_steps
from whence.model.task import CausalLM, Classification, Tokens

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
