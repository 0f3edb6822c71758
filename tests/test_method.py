"""Methods as specs: the table, its equality with the flat records before it, fields by name, strictness, JSON."""

import json
import re
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from proponent import baselines
from proponent.errors import InputError
from proponent.method import (
    EKFAC,
    KINDS,
    METHOD,
    Adam,
    All,
    Autocorrelation,
    Baseline,
    BaselineName,
    ConjugateGradient,
    Constant,
    DataInf,
    EmbeddingRows,
    Equal,
    GaussNewton,
    Gradients,
    Head,
    LastOfEachRun,
    Layers,
    LearningRate,
    LiSSA,
    Logit,
    Loop,
    Loss,
    MaskedLoss,
    Method,
    Projection,
    RefitHead,
    Retaken,
    Similar,
    Spec,
    Steps,
    Sum,
    terms_of,
)
from proponent.method_fields import FIELDS, changed, made
from proponent.method_files import read_fields, write_method
from proponent.method_flat import from_flat, is_flat
from proponent.method_table import METHODS, method_of, stored_method
from proponent.method_words import FLAT_DEFAULTS, NAMED_NONE, WORDS, present_value

ONCE = {"layer": "layers", "checkpoints": "last", "weights": "equal"}
FLAT: dict[str, dict[str, Any]] = {
    "tracin-we": {},
    "tracin-we-topk": {"path": "input", "top": 10},
    "tracin-we-noc": {"path": "input", "drop_special": True},
    "tracin-we-syn": {"path": "input", "synonym_threshold": 0.7},
    "tracin-we-adam": {"preconditioner": "adam"},
    "tracin-we-adam-unit": {"preconditioner": "adam", "unit_norm": True},
    "tracin-last": {"layer": "head"},
    "tracin-sec": {"layer": "layers", "layers": ["last-two"], "project": "auto"},
    "tracin-all": {"layer": "layers", "layers": ["all"], "project": "auto"},
    "tracin-layers": {"layer": "layers", "project": "auto"},
    "grad-cos": {"layer": "layers", "layers": ["all"], "project": "auto", "similarity": "cosine"},
    "influence-last": ONCE | {"layers": ["head"], "curvature": "ggn"},
    "representer": ONCE | {"layers": ["head"], "measure": "logit", "refit": 0.01},
    "datainf": ONCE | {"layers": ["linear"], "project": "auto", "curvature": "datainf"},
    "ekfac": ONCE | {"layers": ["linear"], "project": "auto", "curvature": "ekfac"},
    "fastif": ONCE
    | {"layers": ["last-block", "after-blocks"], "solver": "lissa", "depth": 100, "runs": 2, "damping": 0.01},
    "trackstar": ONCE
    | {"layers": ["linear"], "project": 16, "preconditioner": "adam", "curvature": "autocorrelation", "damping": 1e-6}
    | {"damping_of": "top", "similarity": "cosine", "loss": "sum"},
    **{name: {"layer": "none", "baseline": name} for name in typing.get_args(BaselineName)},
}
"""The named methods as version 0.1 wrote them; what is not said has its default."""

CHANGES: list[dict[str, Any]] = [
    {"layers": "attention,head"}, {"project": None}, {"project": 8}, {"project": 8, "seed": 1}, {"unit_norm": True},
    {"unit_norm": False}, {"similarity": "dot"}, {"similarity": "cosine"}, {"similarity": "dot", "unit_norm": True},
    {"curvature": "ekfac", "fisher": "sampled"}, {"curvature": "datainf", "damping": 0.5}, {"curvature": "none"},
    {"preconditioner": "none"}, {"preconditioner": "adam", "epsilon": 1e-3}, {"damping": 0.2},
    {"damping_of": "absolute"}, {"weights": "equal"}, {"checkpoints": "last"}, {"checkpoints": "all"}, {"loss": "sum"},
    {"mask_share": 0.5, "mask_seed": 3}, {"mask_seed": 3}, {"top": 3}, {"top": 3, "top_by": "position"},
    {"path": "input"}, {"path": "output"}, {"drop_special": True}, {"synonym_threshold": 0.5},
    {"solver": "cg", "damping": 0.05, "scale": 2.0}, {"depth": 200, "runs": 3, "sample": 8}, {"candidates": 6.0},
    {"nearest": "signal"}, {"refit": 0.1}, {"measure": "logit"}, {"basis": "leading"},
    {"basis": "leading", "project": 4}, {"eval_share": 0.25}, {"eval_component": 9}, {"biases": True}, {"seed": 7},
    {"fisher_seed": 3}, {"curvature": "ggn"}, {"layer": "head"},
]  # fmt: skip


def named(name: str) -> Method:
    return METHODS[name].method


def solves(flat: dict[str, Any]) -> bool:
    return flat["solver"] != "none"


def stores(flat: dict[str, Any]) -> bool:
    return not solves(flat) and flat["baseline"] is None


def layered(flat: dict[str, Any]) -> bool:
    return stores(flat) and flat["layer"] == "layers"


HAS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "layers biases": lambda flat: layered(flat) or solves(flat),
    "project curvature refit": layered,
    "basis": lambda flat: layered(flat) and flat["project"] is not None,
    "seed": lambda flat: solves(flat) or (layered(flat) and flat["project"] is not None),
    "path top top_by drop_special synonym_threshold": lambda flat: stores(flat) and flat["layer"] == "embedding",
    "preconditioner similarity unit_norm measure layer": stores,
    "epsilon": lambda flat: stores(flat) and flat["preconditioner"] == "adam",
    "damping": lambda flat: solves(flat) or (layered(flat) and flat["curvature"] != "none"),
    "damping_of": lambda flat: layered(flat) and flat["curvature"] != "none",
    "fisher fisher_seed": lambda flat: layered(flat) and flat["curvature"] == "ekfac",
    "eval_share eval_component": lambda flat: layered(flat) and flat["curvature"] == "autocorrelation",
    "solver depth runs sample scale candidates nearest": solves,
    "loss mask_share mask_seed": lambda flat: flat["measure"] == "loss",
    "checkpoints": lambda flat: not solves(flat) or flat["checkpoints"] == "last",
    "weights": bool,  # always: what is not summed over checkpoints passes it over
}
"""The part that a field is of, in a flat record: the rules of what is taken and what is refused."""


def has_field(flat: dict[str, Any], field: str) -> bool:
    return next(rule for fields, rule in HAS.items() if field in fields.split())(flat)


def goes_together(before: dict[str, Any], flat: dict[str, Any]) -> bool:
    """Whether the parts of a flat record go together: what only gradients of layers have, and the head in full."""
    if flat["solver"] != before["solver"]:
        return before["solver"] != "none"  # a method does not begin to solve
    normed = flat["unit_norm"] or flat["similarity"] == "cosine"
    if flat["layer"] == "head":
        return not normed and flat["preconditioner"] == flat["curvature"] == "none" and flat["refit"] is None
    return flat["layer"] == "layers" or (flat["curvature"] == "none" and flat["refit"] is None)


@pytest.mark.parametrize("name", FLAT)
def test_a_change_means_what_it_meant_or_is_refused(name: str):
    before = FLAT_DEFAULTS | {"name": name} | FLAT[name]
    for changes in CHANGES:
        after = before | changes
        said = {field for field, value in changes.items() if value != FLAT_DEFAULTS[field] or field == "checkpoints"}
        if all(has_field(after, field) for field in said) and goes_together(before, after):
            assert changed(named(name), changes, name) == from_flat(after, name), changes
        else:
            with pytest.raises(InputError, match=re.escape(name)):
                pytest.fail(f"{changes} is taken: {changed(named(name), changes, name)}")


LATER = ("tracin-we-idf", "tracin-we-idf-bm25", "grad-cos-mid", "grad-cos-bm25", "unroll")
"""Methods that the flat record never had."""


def test_the_table_is_the_flat_table():
    assert [*FLAT, "replay", "rollback"] == [name for name in METHODS if name not in LATER]
    for name, flat in FLAT.items():
        whole = json.loads(json.dumps(FLAT_DEFAULTS | {"name": name} | flat))
        assert from_flat(whole, name) == from_flat({"name": name} | flat, name) == named(name)


def test_what_no_index_holds_is_refused():
    with pytest.raises(
        InputError, match="replay cannot be used in an index: explain the run directly, with `proponent expl"
    ):
        stored_method("replay")
    with pytest.raises(InputError, match="mine cannot be used in an index: explain the run directly"):
        stored_method(Loop(name="mine", which="own"))
    with pytest.raises(InputError, match="custom is a sum of methods, which an index cannot store yet"):
        stored_method(Sum(terms=(Gradients(),)))
    assert stored_method(Gradients(checkpoints=Steps(at=(3,)))) == Gradients(checkpoints=Steps(at=(3,)))


def test_baselines_of_the_table_are_those_that_score():
    assert sorted(typing.get_args(BaselineName)) == sorted(baselines.NAMES)


def specs(of: type[Spec] = Spec) -> list[type[Spec]]:
    return [one for own in of.__subclasses__() for one in (own, *specs(own))]


def test_every_kind_is_unique_and_no_field_is_called_like_one():
    kinds = [one.model_fields["kind"].default for one in specs() if "kind" in one.model_fields]
    assert sorted(kinds) == sorted(KINDS)  # no two of one kind
    fields = {name for one in specs() for name in one.model_fields}
    assert fields == FIELDS
    assert fields & set(kinds) == set()


def test_short_names_are_words_or_fields():
    assert {name for name in FLAT_DEFAULTS if name not in WORDS} - FIELDS == {"baseline"}
    assert {name for name in NAMED_NONE if name not in WORDS} <= FIELDS


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tracin-layers", {"project": 0}, "option project 0 of method tracin-layers: .*or equal to 1"),
        ("tracin-layers", {"project": -3, "basis": "leading"}, "option project -3 of method"),
        (
            "tracin-layers",
            {"project": None, "basis": "leading"},
            "basis=leading is for .* tracin-layers .*--project 16",
        ),
        ("tracin-layers", {"layers": "all", "top": 3}, "tracin-layers uses many layers: top, .*word embedding"),
        ("tracin-we", {"basis": "leading"}, "uses the word embedding, and basis is for methods over layers"),
        ("tracin-we", {"path": "sideways"}, "option path 'sideways'"),
        ("tracin-we", {"top": 2.5}, r"option top 2\.5"),
        ("tracin-we", {"weights": "odd"}, "option weights 'odd' of method tracin-we: choose one of learning-rate"),
        ("tracin-we", {"similarity": "odd"}, "option similarity 'odd' of method tracin-we: choose one of dot, cosine"),
        ("tracin-we", {"unit_norm": "yes"}, "option unit_norm 'yes'"),
        ("tracin-we", {"synonym_threshold": 1.5}, r"option synonym-threshold 1\.5"),
        ("tracin-we", {"layers": ("a", 1)}, "layers is for methods over layers"),
        ("tracin-we", {"layer": "odd"}, "option gradient 'odd' of method tracin-we: choose one of embedding-rows"),
        ("tracin-we", {"seed": 7}, "seed is a field of a projection"),
        ("tracin-we", {"preconditioner": "ekfac"}, "option preconditioner 'ekfac' .*: choose one of none, adam"),
        ("tracin-all", {"curvature": "odd"}, "option curvature 'odd' of method tracin-all: .*none, auto.*datainf"),
        ("grad-cos", {"damping": 0.5}, "damping is a field of a preconditioner that inverts .*, and grad-cos has none"),
        ("grad-cos", {"layer_s": []}, r"layer_s' that no method has \(did you mean 'layers'\?\)"),
        ("grad-cos", {"layers": ("a", 1)}, "option layers 1 of method grad-cos"),
        ("grad-cos", {"layer": "head"}, "gradients of the last layer, and normalize=both is for"),
        ("grad-cos", {"match": "similar"}, "'match' that no method has|has a field 'match'"),
        ("grad-cos", {"solver": "cg"}, "grad-cos stores its gradients, .*--method fastif"),
        ("trackstar", {"eval_share": 2.0}, r"option eval-share 2\.0"),
        ("trackstar", {"damping": "much"}, "option damping 'much' of method trackstar"),
        (
            "trackstar",
            {"layer": "embedding"},
            "gradients of the word embedding, and autocorrelation is for gradients of kind",
        ),
        ("representer", {"refit": -1.0}, r"option refit -1\.0"),
        ("representer", {"loss": "sum"}, "representer uses the logit of a label, .*leave loss=sum out"),
        ("datainf", {"fisher": "sampled"}, "fisher sampled is for the Fisher matrix of EK-FAC, and datainf has no"),
        ("fastif", {"candidates": float("inf")}, "option candidates inf of method fastif: .*finite"),
        ("fastif", {"damping": float("nan")}, "option damping nan of method fastif: .*finite"),
        ("fastif", {"basis": "leading"}, "fastif solves with the gradients themselves: .*leave basis out"),
        ("fastif", {"checkpoints": "all"}, "several checkpoints are for methods that store vectors"),
        ("fastif", {"top": 3}, "fastif uses many layers: top"),
        ("fastif", {"solver": "odd"}, "option solver 'odd' of method fastif: choose one of lissa, cg"),
        ("bm25", {"baseline": "bm24"}, "option baseline 'bm24'"),
        ("random", {"refit": 0.1}, "random uses no gradient, and refit is for methods over layers"),
        ("replay", {"damping": 0.5}, r"replay runs its own loop and has no damping: .*settings\.NAME"),
        ("replay", {"loss": "sum"}, "replay runs its own loop and has no loss"),
        ("grad-cos", {"seed": 10**5000}, "method grad-cos: .*: give numbers"),
        ("grad-cos", {"seed": object()}, "method grad-cos: .*not JSON serializable"),
        ("ekfac", {"preconditioners.adam.epsilon": 1.0}, r"no parts 'adam' at this place: it has 0 \(ekfac\)"),
        (
            "ekfac",
            {"preconditioners.ekfac": 1.0},
            "ekfac of method ekfac is a part with fields: .*fields: damping, ",
        ),
        ("ekfac", {"gradient.widht": 1}, r"no field 'widht' at this place.*: it has kind, names"),
        ("influence-last", {"gradient.projection.width": 4}, "has no part with a field width"),
        ("tracin-we", {"gradient.match": "similar"}, "option synonym-threshold of method tracin-we is missing"),
        (
            "tracin-we",
            {"gradient": {"path": "input"}},
            "has no kind: .*one of embedding-rows, head, layers$",
        ),
        ("tracin-we", {"kind": "loop"}, "tracin-we is of kind gradients: choose another method"),
        ("tracin-we", {"mask_share": 2}, "option mask-share 2 of method tracin-we"),
        ("tracin-we", {"measure": None, "loss": "sum"}, "option objective None of method tracin-we"),
        ("tracin-we", {"measure": None, "mask_share": 0.3}, "option objective None of method tracin-we"),
        ("tracin-we", {"gradient": {"kind": "head", "tpo": 1}}, "'tpo' that no method has"),
    ],
)
def test_a_bad_change_names_what_and_why(name: str, changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message) as caught:
        changed(named(name), changes, name)
    assert "\n" not in str(caught.value)


def test_fields_are_addressed_by_short_name_path_kind_and_spec():
    star = changed(
        named("trackstar"), {"preconditioners.autocorrelation.damping": 0.5, "preconditioners.0.epsilon": 1}, "t"
    )
    assert isinstance(star, Gradients)
    assert star.preconditioners == (Adam(epsilon=1.0), Autocorrelation(damping=0.5, damping_of="top"))
    newton = changed(named("influence-last"), {"preconditioners.gauss_newton.damping": 0.5}, "i")  # as --set writes it
    assert newton.preconditioners == (GaussNewton(damping=0.5),)
    assert changed(named("trackstar"), {"curvature": "ekfac"}, "t").preconditioners[1] == EKFAC(
        damping=1e-6, damping_of="top"
    )  # what both kinds have is kept
    assert changed(named("tracin-we"), {"gradient.match": Similar(threshold=0.4)}, "t") == changed(
        named("tracin-we"), {"synonym_threshold": 0.4}, "t"
    )
    assert changed(named("grad-cos"), {"gradient": Layers(names=("head",))}, "g").projection is None
    assert changed(named("grad-cos"), {"gradient.projection.basis": "leading"}, "g").projection == Projection(
        basis="principal"
    )
    steps = changed(named("grad-cos"), {"checkpoints": Steps(at=(3, 5)), "weights": "constant"}, "g")
    assert (steps.checkpoints, steps.weights) == (Steps(at=(3, 5)), Constant())
    assert changed(named("replay"), {"settings.rate": 0.5}, "r") == Loop(
        name="replay", which="replay", settings={"rate": 0.5}
    )


def test_a_sum_is_changed_by_term():
    mix = Sum(name="mix", terms=(named("ekfac"), named("datainf")), factors=(1.0, 0.5))
    assert changed(mix, {"terms.1.preconditioners.datainf.damping": 0.3}, "mix").terms == (
        named("ekfac"),
        changed(named("datainf"), {"damping": 0.3}, "datainf"),
    )
    assert changed(mix, {"factors": (2, 1)}, "mix").factors == (2.0, 1.0)
    assert changed(mix, {"name": "both"}, "mix").name == "both"
    for changes, message in (
        ({"damping": 0.3}, r"terms\.0\.preconditioners\.0\.damping, terms\.1\.preconditioners\.0\.damping"),
        (
            {"terms.gradients.normalize": "both"},
            r"2 parts 'gradients' at this place: it has 0 \(gradients\), 1 \(gradients\)",
        ),
        ({"similarity": "cosine"}, r"mix is a sum of methods: give similarity to one of its terms"),
        ({"top": 3}, "mix is a sum of methods"),
        ({"factors": [1.0]}, "mix has 1 factors for 2 terms"),
    ):
        with pytest.raises(InputError, match=message):
            changed(mix, changes, "mix")
    assert terms_of(mix) == mix.terms
    assert terms_of(mix.terms[0]) == (mix.terms[0],)
    assert terms_of(named("replay")) == ()
    with pytest.raises(ValidationError):
        Sum(terms=())


@pytest.mark.parametrize(
    ("made_of", "message"),
    [
        (
            lambda: Gradients(preconditioners=(EKFAC(),)),
            "gradients of the word embedding, and ekfac is for .*layers",
        ),
        (lambda: Gradients(gradient=Head(), preconditioners=(Adam(),)), "gradients of the last layer, and adam is for"),
        (lambda: Gradients(prepare=RefitHead(penalty=0.1)), "and refit-head is for gradients of kind layers"),
        (lambda: Gradients(gradient=Head(), normalize="train"), "gradients of the last layer, and normalize=train"),
        (
            lambda: Gradients(gradient=Layers(), preconditioners=(EKFAC(), Adam())),
            "ekfac and adam: use at most adam",
        ),
        (lambda: Gradients(gradient=Layers(), preconditioners=(EKFAC(), DataInf())), "at most adam followed by one"),
        (lambda: Gradients(gradient=Layers(damping=0.1)), "Extra inputs"),
        (lambda: EmbeddingRows(top="3"), "valid integer"),
        (lambda: EKFAC(damping=float("nan")), "finite"),
        (lambda: Steps(at=()), "at least 1 item"),
    ],
)
def test_parts_that_exclude_each_other_are_refused_when_written(made_of: Any, message: str):
    with pytest.raises(ValidationError, match=message):
        made_of()


def test_a_part_may_be_written_by_its_kind_alone():
    tree = {"kind": "gradients", "gradient": {"kind": "layers", "names": "a, b"}, "weights": "constant"}
    assert made(tree | {"preconditioners": ["adam", {"kind": "ekfac", "damping": 0.5}]}, "mine") == Gradients(
        gradient=Layers(names=("a", "b")), weights=Constant(), preconditioners=(Adam(), EKFAC(damping=0.5))
    )
    for bad, message in (
        ({"kind": "gradientz"}, "is of kind 'gradientz': choose one of gradients, retaken"),
        ({}, "method mine has no kind: .*one of gradients, retaken, baseline, loop, sum$"),
        ({"kind": "baseline"}, "option baseline of method mine is missing"),
        ({"kind": "head"}, "choose one of gradients"),
    ):
        with pytest.raises(InputError, match=message):
            made(bad, "mine")


@pytest.mark.parametrize("name", ["trackstar", "fastif", "bm25", "tracin-we"])
def test_an_odd_flat_record_is_read_or_refused(name: str):
    for field in FLAT_DEFAULTS:
        for value in ([], {}, "odd", -1, None, True, 1e300):
            try:
                method = from_flat({"name": name} | FLAT[name] | {field: value}, name)
            except InputError:
                continue
            assert METHOD.validate_json(METHOD.dump_json(method)) == method


def test_a_flat_record_keeps_texts_that_are_no_choices():
    """Names of methods and layers may be called as an old value was."""
    found = from_flat({"name": "last", "layer": "layers", "layers": "equal, ggn"}, "last")
    assert found == Gradients(name="last", gradient=Layers(names=("equal", "ggn")))
    assert present_value("curvature", "ggn") == "gauss-newton"
    with pytest.raises(InputError, match=r"'layer_s' that no method has \(did you mean 'layers'"):
        from_flat({"name": "mine", "layer_s": []}, "mine")


def test_a_file_says_a_method_and_what_is_changed(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('method = "grad-cos"\nlayers = ["attention", "head"]\n[tuned]\nnoise = 0.2\n')
    method = method_of(str(path), seed=7)
    assert method == Gradients(
        name="grad-cos",
        gradient=Layers(names=("attention", "head"), projection=Projection(seed=7)),
        normalize="both",
    )
    kept = tmp_path / "kept.json"
    write_method(kept, method, {"noise": 0.2})
    assert json.loads(kept.read_text())["tuned"] == {"noise": 0.2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert method_of(str(kept)) == method
        assert method_of(str(kept), damping_of="mean") == method  # says what holds anyway
    assert read_fields(kept)["gradient"]["projection"]["seed"] == 7


def test_a_file_of_ones_own_is_called_like_the_file(tmp_path: Path):
    path = tmp_path / "heads.toml"
    path.write_text('kind = "gradients"\ngradient = "head"\n')
    assert method_of(str(path)) == Gradients(name="heads", gradient=Head())
    path.write_text('kind = "gradients"\nname = "mine"\npreconditioners = ["ekfac"]\n')
    with pytest.raises(InputError, match="mine uses gradients of the word embedding, and ekfac is for"):
        method_of(str(path))


@pytest.mark.parametrize("name", FLAT)
def test_a_flat_file_is_read_with_one_line(tmp_path: Path, name: str):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"proponent": "0.1", **FLAT_DEFAULTS, "name": name, **FLAT[name]}))
    assert is_flat(read_fields(path))
    with pytest.warns(FutureWarning, match=r"old\.json stores its method in the flat format of version 0\.1") as caught:
        assert method_of(str(path)) == named(name)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"method": "grad-cos", "layer_s": []}', "'layer_s' that no method has (did you mean 'layers'?)"),
        ("a.json", '{"name": "mine", "layer_s": []}', "'layer_s' that no method has (did you mean 'layers'?)"),
        ("a.json", '{"kind": "gradients", "gradeint": []}', "'gradeint' that no method has (did you mean 'gradient'?)"),
        ("a.json", '{"method": "trackstar", "damping": "much"}', "option damping 'much'"),
        ("a.json", '{"method": "grad-cosine"}', "unknown method 'grad-cosine' (did you mean 'grad-cos'?)"),
        ("a.json", '{"method": 3}', "names no method"),
        ("a.json", '{"layers": ["head"]}', "names no method"),
        ("a.json", '{"name": "mine", "gradient": "head"}', "has a field 'gradient' and has no \"kind\""),
        ("a.json", '{"kind": "gradients", "method": "ekfac"}', 'both "method" and "kind"'),
        ("a.json", '{"kind": ["gradients"]}', "method "),
        ("a.json", "[1]", "contains no table of fields"),
        ("a.json", '{"method": ', "is not valid JSON"),
        ("a.json", "[" * 100_000, "is not valid JSON"),
        ("a.toml", "method = ", "is not valid TOML"),
        ("a.toml", 'kind = "loop"\nwhich = "replay"\nsettings = {day = 1979-05-27}', "not JSON serializable"),
        ("a.json", None, "proponent tune RUN DATA --out"),
        ("a/b.txt", "", "ends in .json or .toml"),
    ],
)
def test_a_bad_file_gets_one_clear_line(tmp_path: Path, name: str, content: str | None, message: str):
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        method_of(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class Plan(BaseModel):
    """As a plan of an index holds a method."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    format: int
    method: Method


positive = st.floats(1e-9, 1e6)
names = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=","), max_size=5), max_size=3)
damped = {"damping": st.floats(0, 1e6), "damping_of": st.sampled_from(["mean", "top", "absolute"])}
reduction = st.sampled_from(["mean", "sum"])
losses = st.one_of(
    st.builds(Loss, reduction=reduction),
    st.builds(MaskedLoss, reduction=reduction, share=st.floats(0.01, 0.99), seed=st.integers(0)),
)
projections = st.builds(
    Projection,
    width=st.one_of(st.integers(1), st.just("auto")),
    basis=st.sampled_from(["random", "principal"]),
    seed=st.integers(),
)
layers = st.builds(Layers, names=names.map(tuple), biases=st.booleans(), projection=st.one_of(st.none(), projections))
rows = st.builds(
    EmbeddingRows,
    path=st.sampled_from(["exact", "input", "output"]),
    top=st.one_of(st.none(), st.integers(1)),
    match=st.one_of(st.just(Equal()), st.builds(Similar, threshold=st.floats(0, 0.99))),
)
adam = st.builds(Adam, epsilon=positive)
after = st.one_of(
    st.builds(GaussNewton, **damped),
    st.builds(DataInf, **damped),
    st.builds(EKFAC, fisher=st.sampled_from(["empirical", "sampled"]), fisher_seed=st.integers(0), **damped),
    st.builds(
        Autocorrelation, eval_share=st.one_of(st.just("auto"), st.floats(0, 1)), eval_component=positive, **damped
    ),
)
checkpoints = st.one_of(
    st.sampled_from([All(), LastOfEachRun()]),
    st.builds(Steps, at=st.lists(st.integers(0), min_size=1, max_size=3).map(tuple)),
)
shared = {
    "name": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    "objective": losses,
}
stored = shared | {
    "objective": st.one_of(losses, st.just(Logit())),
    "normalize": st.sampled_from(["none", "train", "both"]),
    "checkpoints": checkpoints,
    "weights": st.sampled_from([LearningRate(), Constant()]),
}
terms = st.one_of(
    st.builds(Gradients, gradient=rows, preconditioners=st.one_of(st.just(()), st.tuples(adam)), **stored),
    st.builds(Gradients, gradient=st.just(Head()), **(stored | {"normalize": st.just("none")})),
    st.builds(
        Gradients,
        gradient=layers,
        prepare=st.one_of(st.none(), st.builds(RefitHead, penalty=positive)),
        preconditioners=st.one_of(st.just(()), st.tuples(adam), st.tuples(after), st.tuples(adam, after)),
        **stored,
    ),
    st.builds(
        Retaken,
        names=names.map(tuple),
        solver=st.one_of(
            st.builds(LiSSA, depth=st.integers(1), runs=st.integers(1)),
            st.builds(ConjugateGradient, depth=st.integers(1)),
        ),
        scale=st.one_of(st.just("auto"), positive),
        sample=st.one_of(st.none(), st.integers(1)),
        candidates=positive,
        **shared,
    ),
    st.builds(Baseline, which=st.sampled_from(typing.get_args(BaselineName)), checkpoints=checkpoints, **shared),
)
scalars = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text("ab"))
methods = st.one_of(
    terms,
    st.builds(Loop, which=st.text("ab"), settings=st.dictionaries(st.text("ab"), scalars, max_size=3)),
    st.lists(terms, min_size=1, max_size=3).map(lambda held: Sum(terms=tuple(held), factors=(0.5,) * len(held))),
)


@given(methods)
def test_a_method_comes_back_from_json(method: Method):
    assert METHOD.validate_json(METHOD.dump_json(method)) == method
    assert made(cast("dict[str, object]", method.model_dump(mode="json")), "mine") == method
    assert Plan.model_validate_json(Plan(format=3, method=method).model_dump_json()).method == method
