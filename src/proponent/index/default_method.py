"""The default method of an index."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from proponent.data import Layout
from proponent.method import Gradients, Loss, Retaken, Term
from proponent.models import Run
from proponent.models.checkpoints import RECORD_FILE
from proponent.models.counting import homes, rules_of
from proponent.models.former import recorded
from proponent.models.run_record import drawn, started_from
from proponent.tensors import TensorSlices

BEST = "tracin-we-adam-unit"
"""For classifiers without a record of how they began (decision 0012); needs the optimizer's second moments."""
PLAIN = "tracin-we"
SCRATCH = "tracin-we-idf"
"""First on classifiers (decision 0025) and on values (0026) of models from scratch; needs no second moments."""
TUNED = "grad-cos-mid"
"""The best method with word scores on classifiers fine-tuned from a pretrained model (decisions 0014 and 0028)."""
LAYERS = "grad-cos"
"""Where methods of the word embedding have nothing to score: it was frozen, or is not supported."""
ADAPTED = "grad-cos-bm25"
"""Of adapters of language models that were trained on text or conversations (decision 0029)."""
WHOLE = "tracin-we-idf-bm25"
"""Of language models that were trained whole on text or conversations (decision 0029)."""

_NORM = re.compile(r"norm|ln_", re.IGNORECASE)


class Default(NamedTuple):
    """A method and the reason for it."""

    method: str  # name in the method table
    reason: str  # one line for the user


def default_method(run: Run, steps: Sequence[int] | None = None, second_moment: str = "recorded") -> Default:
    """Choose the method with the best measurements among those that the run allows."""
    if _scores_layers(run):
        method = LAYERS if _pretrained(run) is None else TUNED
        return Default(
            method,
            f"method {method}: the word embedding was frozen in this training, and this method scores the layers that "
            f"were trained (to take the gradient at the embedding's output instead: --method {PLAIN})",
        )
    if getattr(run.task, "reads_at_end", False):
        return Default(
            LAYERS,
            f"method {LAYERS}: encoder and decoder of this classifier look words up in one table, which methods of the "
            "word embedding do not support",
        )
    if run.task.answers:
        return _of_answers(run)
    if not run.task.labels:
        return _of_language(run)
    initial = _pretrained(run)
    if initial is not None and not run.info.adapter and second_moment == "recorded":
        return Default(
            TUNED,
            f"method {TUNED}: the default for a classifier that was fine-tuned from a pretrained model ({initial}), "
            f"where the word embedding gave poor rankings in measurements (to use it anyway: --method {BEST})",
        )
    if second_moment == "recorded" and not run.info.adapter and _from_scratch(run):
        return Default(SCRATCH, f"method {SCRATCH}: the default for a classifier that was trained from scratch")
    used = [*run.checkpoints] if steps is None else [one for one in run.saved if one.step in steps]
    lacking = [one for one in used if one.moments is None or "embedding" not in TensorSlices(one.moments).names]
    if second_moment == "recorded" and lacking and run.info.adapter:
        return Default(
            PLAIN,
            f"method {PLAIN}: the records of this adapter have no second moments of the word embedding; "
            f"{BEST}, the better method, needs them: choose --second-moment estimate",
        )
    if second_moment == "recorded" and lacking and recorded(lacking[0].path, RECORD_FILE).is_file():
        return Default(
            PLAIN,
            f"method {PLAIN}: there were no second moments of the word embedding for proponent.Recorder to keep in "
            f"{lacking[0].path} (a frozen embedding, or an optimizer without them); {BEST}, the better method, needs "
            "them: choose --second-moment estimate",
        )
    if second_moment == "recorded" and lacking:
        return Default(
            PLAIN,
            f"method {PLAIN}: {lacking[0].path} has no recorded second moments; {BEST}, the better method, needs "
            "them: train with proponent.Recorder(), or choose --second-moment estimate",
        )
    return Default(BEST, f"method {BEST}: the default for a classifier whose second moments are known")


def _of_language(run: Run) -> Default:
    """Causal language models that were trained on text (decision 0029); other objectives were not measured."""
    kind = "language" if run.task.predicts_tokens else run.task.kind
    if not (run.task.chats and run.task.trainer == "sft"):
        return Default(PLAIN, f"method {PLAIN}: the default for a {kind} model")
    if run.info.adapter:
        return Default(ADAPTED, f"method {ADAPTED}: the default for an adapter of a language model")
    return Default(WHOLE, f"method {WHOLE}: the default for a language model")


def _scores_layers(run: Run) -> bool:
    """Whether a training moved weights of layers, and not the word embedding; language models are asked by words."""
    trained = run.trained
    if trained is None or trained.embedding or run.task.predicts_tokens or run.task.pairing is not None:
        return False
    return any(name.endswith("weight") and not _NORM.search(name) for name in trained.names)


def _of_answers(run: Run) -> Default:
    """Regression, several labels, tags, places in a text (decision 0026); reward models have pairs."""
    kind = f"the default for a {run.task.kind} model"
    if run.task.pairing is None and not run.info.adapter and _from_scratch(run):
        return Default(SCRATCH, f"method {SCRATCH}: {kind} that was trained from scratch")
    return Default(
        PLAIN,
        f"method {PLAIN}: {kind}, not measured by retraining where weights were trained before; --method {SCRATCH} is "
        "better from scratch",
    )


def _from_scratch(run: Run) -> bool:
    """Whether the records of all joined runs say that no weight was trained before the first step."""
    return all(drawn(folder) for folder in homes(run))


def summed(method: Term, run: Run, layout: Layout) -> Term:
    """Sum the losses of a row's tokens, as trainers of chat data do, where a method takes their mean."""
    if not run.task.chats or rules_of(run, layout).counting is None:
        return method
    if isinstance(method, Gradients | Retaken) and method.objective == Loss():
        return method.model_copy(update={"objective": Loss(reduction="sum")})
    return method


def _pretrained(run: Run) -> str | None:
    """Pretrained models that the joined runs started from, if all of them have a record of it."""
    found = [started_from(folder) for folder in homes(run)]
    known = [one for one in found if one is not None]
    return ", ".join(sorted(set(known))) if len(known) == len(found) else None
