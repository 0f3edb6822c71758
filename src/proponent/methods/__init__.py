"""The table of methods: name -> recipe, with the paper it comes from, what it costs and what it needs.

A method that is a product of gradients is data. To add one, add a row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from proponent.baselines import NAMES as BASELINES
from proponent.errors import InputError
from proponent.methods.files import names_a_file, read_fields
from proponent.recipe import Recipe
from proponent.suggest import nearest

YEH = "Yeh et al. 2022, First is Better Than Last for Language Data Influence (arXiv 2202.11844)"
PRUTHI = "Pruthi et al. 2020, Estimating Training Data Influence by Tracing Gradient Descent (arXiv 2002.08484)"

KOH = "Koh and Liang 2017, Understanding Black-box Predictions via Influence Functions (arXiv 1703.04730)"
REPRESENTER = "Yeh et al. 2018, Representer Point Selection for Explaining Deep Neural Networks (arXiv 1811.09720)"
DATAINF = "Kwon et al. 2024, DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs (arXiv 2310.00902)"
EKFAC = "Grosse et al. 2023, Studying Large Language Model Generalization with Influence Functions (arXiv 2308.03296)"
FASTIF = (
    "Guo et al. 2021, FastIF: Scalable Influence Functions for Efficient Model Interpretation and Debugging (arXiv "
    "2012.15781)"
)
TRACKSTAR = (
    "Chang et al. 2025, Scalable Influence and Fact Tracing for Large Language Model Pretraining (arXiv 2410.17413)"
)
VITEL = (
    "Vitel and Chhabra 2025, First is Not Really Better Than Last: Evaluating Layer Choice and Aggregation Strategies "
    "in Language Model Data Influence Estimation (arXiv 2511.04715)"
)


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table.

    Attributes:
        recipe: the method as data.
        summary: what it measures, in one line.
        paper: where it comes from.
        cost: of building an index, per checkpoint.
        needs: beyond the run and its data.
    """

    recipe: Recipe
    summary: str
    paper: str
    cost: str
    needs: str = "-"


MAGIC = "Ilyas and Engstrom 2025, MAGIC: Near-Optimal Data Attribution for Deep Learning"

_EMBEDDING_COST = "forward + backward to the embedding"
_LAYERS_COST = "forward + backward to the first layer that is scored"
_CURVED_COST = f"{_LAYERS_COST}, and one matrix per layer"


def _last(name: str, layers: tuple[str, ...], **fields: Any) -> Recipe:
    """A recipe over layers of the last checkpoint."""
    return Recipe(name=name, layer="layers", layers=layers, checkpoints="last", weights="equal", **fields)


_ROWS = (
    Method(
        Recipe(name="tracin-we"), "gradient products at the word embedding, split exactly by word", YEH, _EMBEDDING_COST
    ),
    Method(
        Recipe(name="tracin-we-topk", path="input", top=10),
        "the same, over the 10 tokens of largest gradient",
        YEH,
        _EMBEDDING_COST,
    ),
    Method(
        Recipe(name="tracin-we-noc", path="input", drop_special=True),
        "the same, without special tokens",
        YEH,
        _EMBEDDING_COST,
    ),
    Method(
        Recipe(name="tracin-we-syn", path="input", synonym_threshold=0.7),
        "the same, where similar tokens may meet, matched one to one",
        YEH,
        _EMBEDDING_COST,
    ),
    Method(
        Recipe(name="tracin-we-adam", preconditioner="adam"),
        "the same, divided by the root of Adam's second moment",
        "TracIn-WE with the optimizer's own step",
        _EMBEDDING_COST,
        "proponent.Recorder, or --second-moment estimate",
    ),
    Method(
        Recipe(name="tracin-we-adam-unit", preconditioner="adam", unit_norm=True),
        "the same, with training gradients at norm 1: the default where second moments are known",
        "TracIn-WE with the optimizer's own step",
        _EMBEDDING_COST,
        "proponent.Recorder, or --second-moment estimate",
    ),
    Method(
        Recipe(name="tracin-last", layer="head"),
        "gradient products at the last layer, in closed form",
        PRUTHI,
        "forward only",
    ),
    Method(
        Recipe(name="tracin-sec", layer="layers", layers=("last-two",), project="auto"),
        "gradient products at the last two linear layers",
        YEH,
        _LAYERS_COST,
    ),
    Method(
        Recipe(name="tracin-all", layer="layers", layers=("all",), project="auto"),
        "gradient products over all weights",
        PRUTHI,
        _LAYERS_COST,
    ),
    Method(
        Recipe(name="tracin-layers", layer="layers", project="auto"),
        "gradient products over the layers that --layers names",
        VITEL,
        _LAYERS_COST,
        "--layers",
    ),
    Method(
        Recipe(name="grad-cos", layer="layers", layers=("all",), project="auto", similarity="cosine"),
        "cosine of gradients over all weights",
        VITEL,
        _LAYERS_COST,
    ),
    Method(
        _last("influence-last", ("head",), curvature="ggn", damping=0.1),
        "influence functions of the last layer: inverse of its exact Hessian, damped",
        KOH,
        "forward only, and one matrix",
        "a classifier",
    ),
    Method(
        _last("representer", ("head",), measure="logit", refit=0.01),
        "representer values: contribution to the label's logit, with the last layer refitted under L2",
        REPRESENTER,
        "two forward passes",
        "a classifier",
    ),
    Method(
        _last("datainf", ("linear",), project="auto", curvature="datainf", damping=0.1),
        "influence functions with DataInf's closed form, layer by layer",
        DATAINF,
        _CURVED_COST,
    ),
    Method(
        _last("ekfac", ("linear",), project="auto", curvature="ekfac", damping=0.1),
        "influence functions with EK-FAC's inverse of the Fisher matrix",
        EKFAC,
        f"{_CURVED_COST}, twice",
    ),
    Method(
        _last("fastif", ("last-block", "head"), solver="lissa", depth=100, runs=2, damping=0.01),
        "influence functions with an inverse-Hessian product per query (LiSSA), on the nearest candidates",
        FASTIF,
        "forward only; a query some hundred passes over small batches",
    ),
    Method(
        _last(
            "trackstar",
            ("linear",),
            project=16,
            preconditioner="adam",
            curvature="autocorrelation",
            damping=1e-6,
            damping_of="top",
            similarity="cosine",
            loss="sum",
        ),
        "projected gradients, divided by second moments, decorrelated, at norm 1",
        TRACKSTAR,
        _CURVED_COST,
        'proponent.Recorder(moments="all"), or --second-moment estimate',
    ),
    *(
        Method(Recipe(name=name, layer="none", baseline=name), summary, "baseline", "forward only", needs)
        for name, summary, needs in (
            ("bm25", "word overlap (BM25), no model", "proponent[baselines]"),
            ("tfidf-label", "TF-IDF cosine times the product of the two error signals", "-"),
            ("embedding", "cosine of mean hidden states, signed by the label", "-"),
            ("label", "+1 for the same label, -1 for another", "-"),
            ("random", "chance", "-"),
        )
    ),
)

METHODS: dict[str, Method] = {method.recipe.name: method for method in _ROWS}
"""Every method by the name that users type."""

assert set(BASELINES) <= set(METHODS)


@dataclass(frozen=True, slots=True)
class LoopMethod:
    """A method with a loop of its own, which no index holds.

    Attributes:
        summary: what it measures, in one line.
        paper: where it comes from.
        cost: of a question.
        needs: beyond the run and its data.
        asked: how it is asked.
    """

    summary: str
    paper: str
    cost: str
    needs: str
    asked: str


LOOPS: dict[str, LoopMethod] = {
    "replay": LoopMethod(
        "exact derivative of an output through the recorded training, by example and word",
        MAGIC,
        "the training again, about 3 times more per query",
        "proponent.Recorder(replay=True), or proponent train --replay",
        "proponent explain RUN TEXT --method replay --data DATA",
    )
}
"""Methods that are no recipe, by the name that users type."""


def recipe_of(method: str | Recipe, **changes: object) -> Recipe:
    """Find a recipe by name or in a file, and change it."""
    if isinstance(method, str) and method not in METHODS and names_a_file(method):
        fields = read_fields(Path(method))
        base = fields.pop("method", None)
        start = {} if base is None else _named(str(base)).model_dump()
        return _made(method, start, fields, changes)
    recipe = _named(method) if isinstance(method, str) else method
    return _made(recipe.name, recipe.model_dump(), changes)


def _named(method: str) -> Recipe:
    if method in LOOPS:
        raise InputError(f"{method} needs no index: use the run itself, with `{LOOPS[method].asked}`")
    if method not in METHODS:
        raise InputError(
            f"unknown method {method!r}{nearest(method, METHODS)}; `proponent methods` lists them: {', '.join(METHODS)}"
        )
    return METHODS[method].recipe


def _made(said: str, start: dict[str, Any], *changes: dict[str, Any]) -> Recipe:
    """A recipe of fields, later ones first."""
    fields = start
    for some in changes:
        fields = fields | some
        layers = some.get("layers")
        if layers is not None:
            parts = layers.split(",") if isinstance(layers, str) else cast("Iterable[object]", layers)
            fields["layers"] = tuple(one.strip() if isinstance(one, str) else one for one in parts)
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")  # what follows is of pydantic's making
        raise InputError(f"option {name} {first['input']!r} of method {said}: {first['msg']}") from error
