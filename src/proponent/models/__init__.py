"""Models: runs, checkpoints, tasks, tokenization."""

from proponent.models.batch import Batch, Encoded, encoded_bytes
from proponent.models.checkpoints import Checkpoint
from proponent.models.encoding import Encoder
from proponent.models.factorization import register
from proponent.models.masking import Masks
from proponent.models.run import Run
from proponent.models.sampled_labels import SampledLabels
from proponent.models.tasks import TASKS, CausalLM, Classification, MaskedLM, Seq2Seq, Task
from proponent.models.training_trace import TrainingTrace, digest, read_training_trace

register()

__all__ = [
    "TASKS",
    "Batch",
    "CausalLM",
    "Checkpoint",
    "Classification",
    "Encoded",
    "Encoder",
    "MaskedLM",
    "Masks",
    "Run",
    "SampledLabels",
    "Seq2Seq",
    "Task",
    "TrainingTrace",
    "digest",
    "encoded_bytes",
    "read_training_trace",
]
