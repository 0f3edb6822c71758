"""The table of named methods: definition, objective, source, cost and requirements of each.

To add a method that is composed of parts, add a row.
"""

import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from proponent.errors import InputError
from proponent.method import (
    EKFAC,
    IDF,
    Adam,
    Autocorrelation,
    Baseline,
    Constant,
    DataInf,
    Direction,
    EmbeddingRows,
    GaussNewton,
    Gradients,
    Head,
    LastOfEachRun,
    Layers,
    LiSSA,
    Logit,
    Loop,
    Loss,
    Method,
    MidRun,
    Named,
    Projection,
    RefitHead,
    Retaken,
    Similar,
    Sum,
    Term,
    WordOverlap,
)
from proponent.method_fields import changed, made
from proponent.method_files import names_a_file, read_fields
from proponent.method_flat import LINE, from_flat, is_flat
from proponent.suggest import nearest

YEH = "Yeh et al. 2022, First is Better Than Last for Language Data Influence (arXiv 2202.11844)"
PRUTHI = "Pruthi et al. 2020, Estimating Training Data Influence by Tracing Gradient Descent (arXiv 2002.08484)"
KOH = "Koh and Liang 2017, Understanding Black-box Predictions via Influence Functions (arXiv 1703.04730)"
REPRESENTER = "Yeh et al. 2018, Representer Point Selection for Explaining Deep Neural Networks (arXiv 1811.09720)"
KWON = "Kwon et al. 2024, DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs (arXiv 2310.00902)"
GROSSE = "Grosse et al. 2023, Studying Large Language Model Generalization with Influence Functions (arXiv 2308.03296)"
GUO = (
    "Guo et al. 2021, FastIF: Scalable Influence Functions for Efficient Model Interpretation and Debugging (arXiv "
    "2012.15781)"
)
CHANG = "Chang et al. 2025, Scalable Influence and Fact Tracing for Large Language Model Pretraining (arXiv 2410.17413)"
VITEL = (
    "Vitel and Chhabra 2025, First is Not Really Better Than Last: Evaluating Layer Choice and Aggregation Strategies "
    "in Language Model Data Influence Estimation (arXiv 2511.04715)"
)
LAWRENCE = "Lawrence et al. 2021, Explaining Neural Matrix Factorization with Gradient Rollback (arXiv 2010.05516)"
MAGIC = "Ilyas and Engstrom 2025, MAGIC: Near-Optimal Data Attribution for Deep Learning"
DENG = "Deng et al. 2026, How Faithful Is Trajectory-Based Data Attribution? (arXiv 2605.18814)"
OWN = "Direction and idf of TracIn-WE's rows (docs/methods/tracin-we.md)"
OVERLAP = "Cosine of gradients and word overlap, in standard deviations (docs/methods/layers.md)"
ADAM = "TracIn-WE with the optimizer's own step"

ROWS = "forward + backward to the embedding"
LAYERS = "forward + backward to the first layer that is scored"
MATRIX = f"{LAYERS}, and one matrix per layer"
FORWARD = "forward only"

MOMENTS = "proponent.Recorder, or --second-moment estimate"
CLASSIFIER = "a classifier"


class Row(NamedTuple):
    """One row of the table."""

    method: Method
    summary: str
    """What the method measures, in one line."""
    paper: str
    cost: str
    """Cost of an index, per checkpoint."""
    needs: str = "-"
    """Requirements other than the run and its data."""
    asked: str = ""
    """The command, for a method that is not stored in an index."""


def _layers(*names: str, width: int | Literal["auto"] = "auto") -> Layers:
    return Layers(names=names, projection=Projection(width=width))


def _once(gradient: Layers, *preconditioners: Any, **fields: Any) -> Gradients:
    """At the last checkpoint of each run, which weighs 1."""
    own = {"checkpoints": LastOfEachRun(), "weights": Constant(), "preconditioners": preconditioners}
    return Gradients(gradient=gradient, **own, **fields)


# fmt: off
_ROWS = {  # per method: one line of parts, one line of description
    "tracin-we": Row(
        Gradients(),
        "gradient products at the word embedding, split exactly by word", YEH, ROWS),
    "tracin-we-topk": Row(
        Gradients(gradient=EmbeddingRows(path="input", top=10)),
        "the same, over the 10 tokens of largest gradient", YEH, ROWS),
    "tracin-we-noc": Row(
        Gradients(gradient=EmbeddingRows(path="input", drop_special=True)),
        "the same, without special tokens", YEH, ROWS),
    "tracin-we-syn": Row(
        Gradients(gradient=EmbeddingRows(path="input", match=Similar(threshold=0.7))),
        "the same, with similar tokens matched one to one", YEH, ROWS),
    "tracin-we-adam": Row(
        Gradients(preconditioners=(Adam(),)),
        "the same, divided by the root of Adam's second moment", ADAM, ROWS, MOMENTS),
    "tracin-we-adam-unit": Row(
        Gradients(preconditioners=(Adam(),), normalize="train"),
        "the same, with training gradients of norm 1", ADAM, ROWS, MOMENTS),
    "tracin-we-idf": Row(
        Gradients(gradient=EmbeddingRows(drop_special=True, direction=Direction()), preconditioners=(IDF(),),
                  normalize="both"),
        "cosine of embedding rows, by direction times tf-idf of the token: the default from scratch", OWN, ROWS),
    "tracin-we-idf-bm25": Row(
        Gradients(gradient=EmbeddingRows(drop_special=True, direction=Direction()), preconditioners=(IDF(),),
                  normalize="both", overlap=WordOverlap()),
        "the same, plus half of the word overlap (BM25): the default of language models trained whole", OVERLAP, ROWS),
    "tracin-last": Row(
        Gradients(gradient=Head()),
        "gradient products at the last layer, in closed form", PRUTHI, FORWARD),
    "tracin-sec": Row(
        Gradients(gradient=_layers("last-two")),
        "gradient products at the last two linear layers", YEH, LAYERS),
    "tracin-all": Row(
        Gradients(gradient=_layers("all")),
        "gradient products over all weights", PRUTHI, LAYERS),
    "tracin-layers": Row(
        Gradients(gradient=_layers()),
        "gradient products over the layers of --layers", VITEL, LAYERS, "--layers"),
    "grad-cos": Row(
        Gradients(gradient=_layers("all"), normalize="both"),
        "cosine of gradients over all weights", VITEL, LAYERS),
    "grad-cos-mid": Row(
        Gradients(gradient=_layers("all"), normalize="both", checkpoints=MidRun()),
        "the same, at three checkpoints in the middle of each run: the default of fine-tuned encoders", VITEL, LAYERS),
    "grad-cos-bm25": Row(
        Gradients(gradient=_layers("all"), normalize="both", overlap=WordOverlap()),
        "as grad-cos, plus half of the word overlap (BM25): the default of adapters of language models", OVERLAP,
        LAYERS),
    "influence-last": Row(
        _once(Layers(names=("head",)), GaussNewton()),
        "influence functions of the last layer: inverse of its exact Hessian, damped",
        KOH, "forward only, and one matrix", CLASSIFIER),
    "representer": Row(
        _once(Layers(names=("head",)), objective=Logit(), prepare=RefitHead(penalty=0.01)),
        "representer values: contribution to the label's logit, with the last layer refitted under L2",
        REPRESENTER, "two forward passes", CLASSIFIER),
    "datainf": Row(
        _once(_layers("linear"), DataInf()),
        "influence functions with DataInf's closed form, layer by layer", KWON, MATRIX),
    "ekfac": Row(
        _once(_layers("linear"), EKFAC()),
        "influence functions with EK-FAC's inverse of the Fisher matrix", GROSSE, f"{MATRIX}, twice"),
    "fastif": Row(
        Retaken(names=("last-block", "after-blocks"), solver=LiSSA(depth=100, runs=2), damping=0.01),
        "influence functions with an inverse-Hessian product per query (LiSSA), on the nearest candidates",
        GUO, "forward only; several hundred passes over small batches per query"),
    "trackstar": Row(
        _once(_layers("linear", width=16), Adam(), Autocorrelation(damping=1e-6, damping_of="top"),
              objective=Loss(reduction="sum"), normalize="both"),
        "projected gradients, divided by second moments, decorrelated, of norm 1",
        CHANG, MATRIX, 'proponent.Recorder(moments="all"), or --second-moment estimate'),
    "bm25": Row(
        Baseline(which="bm25"),
        "word overlap (BM25), no model", "baseline", FORWARD),
    "tfidf-label": Row(
        Baseline(which="tfidf-label"),
        "TF-IDF cosine times the product of the two error signals", "baseline", FORWARD),
    "embedding": Row(
        Baseline(which="embedding"),
        "cosine of mean hidden states, signed by the label", "baseline", FORWARD),
    "label": Row(
        Baseline(which="label"),
        "+1 for the same label, -1 for another", "baseline", FORWARD),
    "random": Row(
        Baseline(which="random"),
        "chance", "baseline", FORWARD),
    "replay": Row(
        Loop(which="replay"),
        "exact derivative of an output through the recorded training, by example and word",
        MAGIC, "the training once, plus about 3 times the training per query",
        "proponent.Recorder(replay=True), or proponent train --replay",
        "proponent explain RUN TEXT --method replay --data DATA"),
    "unroll": Row(
        Loop(which="replay", settings={"curvature": "fisher"}),
        "the same, with the Fisher matrix of each step in place of its Hessian", DENG,
        "the training once, plus about 3 times the training per query",
        "proponent.Recorder(replay=True), or proponent train --replay",
        "proponent explain RUN TEXT --method unroll --data DATA"),
    "rollback": Row(
        Loop(which="rollback"),
        "change of an output when the recorded updates of an example are taken back, among neighbours",
        LAWRENCE, "one forward pass of the query per neighbour",
        "proponent train --changes embedding, or proponent.Recorder(changes=...) and batches of 1",
        "proponent explain RUN TEXT --method rollback --data DATA"),
}
# fmt: on

METHODS: dict[str, Row] = {
    name: row._replace(method=row.method.model_copy(update={"name": name})) for name, row in _ROWS.items()
}
"""Every method by name."""


def method_of(method: str | Method, /, **changes: object) -> Method:
    """Look up a method by name or read it from a file, and change it."""
    if isinstance(method, str) and method not in METHODS and names_a_file(method):
        found = _in_file(method)
        return changed(found, changes, method)
    if isinstance(method, str):
        return changed(_named(method), changes, method)
    if not isinstance(cast("object", method), Named):
        raise InputError(
            f"method is {method!r}: give a name of `proponent methods`, a method file, or a method as data, such as "
            "proponent.Gradients()"
        )
    return changed(method, changes, method.name)


def stored_method(method: str | Method, /, **changes: object) -> Term:
    """Look up a method as an index stores it."""
    found = method_of(method, **changes)
    if isinstance(found, Loop):
        asked = METHODS[found.which].asked if found.which in METHODS else "proponent explain RUN TEXT --method NAME"
        raise InputError(f"{found.name} cannot be used in an index: explain the run directly, with `{asked}`")
    if isinstance(found, Sum):
        raise InputError(
            f"{found.name} is a sum of methods, which an index cannot store yet: build an index for each term"
        )
    return found


def _in_file(said: str) -> Method:
    fields = read_fields(Path(said))
    if is_flat(fields):
        warnings.warn(LINE.format(where=said), FutureWarning, stacklevel=3)
        return from_flat(fields, said)
    if "method" not in fields:
        return made({"name": Path(said).stem} | fields, said)
    return changed(_named(fields.pop("method")), fields, said)


def _named(method: str) -> Method:
    if method not in METHODS:
        raise InputError(
            f"unknown method {method!r}{nearest(method, METHODS)}; `proponent methods` lists them: {', '.join(METHODS)}"
        )
    return METHODS[method].method
