"""Where models come from: runs, checkpoints, tasks, tokenization."""

from whence.model.checkpoints import Checkpoint
from whence.model.encoding import Batch, Encoded, Encoder, encoded_bytes
from whence.model.run import Run
from whence.model.steps import Steps, digest, read_steps
from whence.model.task import CausalLM, Classification

__all__ = [
    "Batch",
    "CausalLM",
    "Checkpoint",
    "Classification",
    "Encoded",
    "Encoder",
    "Run",
    "Steps",
    "digest",
    "encoded_bytes",
    "read_steps",
]
