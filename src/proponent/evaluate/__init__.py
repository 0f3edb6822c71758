"""Validation of scores: retraining, rankings with known answers, controls and intervals.

Pass your own training function as a `Retrainer`, or a plain function in `Function`; pass scores as arrays [q n].
"""

from proponent.evaluate.deletion import RANDOM, SIDES, DeletionResult, flipped, plan_deletions, run_deletions
from proponent.evaluate.intervals import Estimate, bootstrap, paired, ratio, widened
from proponent.evaluate.label_noise import plant
from proponent.evaluate.lds import (
    Ceiling,
    ceiling,
    lds,
    lds_estimate,
    lds_replicates,
    spearman,
    subset_masks,
    within_groups,
)
from proponent.evaluate.ranking import (
    auc_ndr,
    average_precision,
    bootstrap_rows,
    ndr,
    precision_at,
    recalls,
    reciprocal_ranks,
    roc_auc,
)
from proponent.evaluate.tuning import trials
from proponent.training.outputs import Outputs
from proponent.training.retraining import Function, Retrainer, RetrainJob, Retrains, null_gap

__all__ = [
    "RANDOM",
    "SIDES",
    "Ceiling",
    "DeletionResult",
    "Estimate",
    "Function",
    "Outputs",
    "RetrainJob",
    "Retrainer",
    "Retrains",
    "auc_ndr",
    "average_precision",
    "bootstrap",
    "bootstrap_rows",
    "ceiling",
    "flipped",
    "lds",
    "lds_estimate",
    "lds_replicates",
    "ndr",
    "null_gap",
    "paired",
    "plan_deletions",
    "plant",
    "precision_at",
    "ratio",
    "recalls",
    "reciprocal_ranks",
    "roc_auc",
    "run_deletions",
    "spearman",
    "subset_masks",
    "trials",
    "widened",
    "within_groups",
]
