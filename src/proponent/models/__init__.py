"""Where models come from: runs, checkpoints, tasks, tokenization."""

from proponent.models.batch import Batch, Kind
from proponent.models.checkpoints import Checkpoint
from proponent.models.encoding import Encoded, Encoder, encoded_bytes
from proponent.models.masking import Masks
from proponent.models.run import Run
from proponent.models.sampled_labels import SampledLabels
from proponent.models.task import CausalLM, Classification, Tokens
from proponent.models.training_trace import TrainingTrace, digest, read_training_trace

__all__ = [
    "Batch",
    "CausalLM",
    "Checkpoint",
    "Classification",
    "Encoded",
    "Encoder",
    "Kind",
    "Masks",
    "Run",
    "SampledLabels",
    "Tokens",
    "TrainingTrace",
    "digest",
    "encoded_bytes",
    "read_training_trace",
]
