"""Encoders of more and more noise: the report by level, NMTune as a regulariser of LoRA, the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import runs
import tiny
from proponent.actions import nmtune_lora
from proponent.actions.nmtune import HeadSettings, Labelled, fit_head, head_report, predict
from proponent.actions.nmtune_lora import TUNINGS, LoraSettings, _Tuned, tuned_accuracies, with_lora
from proponent.actions.noise_report import COMPARED, IN, OUT, level_name, noise_claims, noise_report
from proponent.actions.spectrum import spectrum
from proponent.actions.text_features import Encoder, LabelledTexts, text_features
from proponent.errors import InputError
from proponent.types import Example

FAST = HeadSettings(epochs=6, batch_size=16)
LORA = LoraSettings(rank=4, epochs=10, batch_size=8, learning_rate=1e-2, max_length=24)


def level(noise: float) -> tuple[Labelled, dict[str, Labelled]]:
    """Features that blur with the noise."""

    def some(seed: int) -> Labelled:
        draw = np.random.default_rng(seed)
        labels = np.arange(60) % 3
        return Labelled((0.2 + noise) * draw.normal(size=(60, 6)) + 2 * np.eye(6)[labels], labels)

    return some(0), {"own": some(1), "other": some(2), "third": some(3)}


def test_the_report_has_a_row_for_each_level_and_head():
    levels = {0.3: level(1.5), 0.0: level(0.0), 0.1: level(0.6)}
    page = noise_report(levels, ["own"], settings=FAST, seeds=2, quiet=True)
    ours = [f"{name}: NMTune" for name in ("0% noise", "10% noise", "30% noise")]
    assert [one.method for one in page.rows[:3]] == ours
    assert len(page.rows) == 3 * len(COMPARED)
    assert page.columns == (IN, OUT, "SVE", "LSVR")
    train, tests = levels[0.1]
    right = [predict(fit_head(train.features, train.labels, settings=FAST, seed=seed), tests[name].features)
             == tests[name].labels for name in ("other", "third") for seed in (0, 1)]  # fmt: skip
    assert page.rows[1].figures[1].value == pytest.approx(np.mean(right))
    assert page.rows[1].figures[2].value == pytest.approx(spectrum(train.features).sve)
    facts = dict(page.facts)
    assert facts["rank correlation of noise with SVE and LSVR"] == "1.00 and 1.00"
    assert facts["NMTune minus MLP, out of domain"].endswith("of 3 levels")
    assert {one.name: one.x for one in page.curves} == dict.fromkeys(COMPARED, (0.0, 10.0, 30.0))
    frame = page.to_pandas()
    assert frame["SVE"].tolist() == [row.figures[2].value for row in page.rows]


def test_the_claims_are_plain_differences():
    sides = {(at, kind, side): np.asarray([0.0, 1.0, 1.0, 1.0]) for at in (0.0, 0.3) for kind in COMPARED
             for side in (IN, OUT)}  # fmt: skip
    sides[0.3, "linear probe", OUT] = np.asarray([0.0, 0.0, 1.0, 1.0])
    sides[0.3, "NMTune", OUT] = np.asarray([1.0, 1.0, 1.0, 1.0])
    found = noise_claims({0.0: (2.0, 1.0), 0.3: (1.5, 1.0)}, sides)
    assert (found.sve, found.lsvr, found.signs) == (pytest.approx(-1), 0.0, 1)
    assert (found.fall.value, found.repair.value, found.kept.value) == (-0.25, 0.125, 0.0)


def test_levels_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="at least two encoders"):
        noise_report({0.0: level(0)}, ["own"], settings=FAST)
    with pytest.raises(InputError, match=r"a level of noise is 30: must be from 0 to 1"):
        noise_report({0.0: level(0), 30: level(0)}, ["own"], settings=FAST)
    for inside in ([], ["own", "other", "third"], ["else"]):
        with pytest.raises(InputError, match="name at least one in domain and leave at least one out of domain"):
            noise_report({0.0: level(0), 0.3: level(0)}, inside, settings=FAST)
    assert level_name(0.125) == "12.5% noise"
    assert level_name(0.07) == "7% noise"
    assert level_name(0.1001) != level_name(0.1002)  # one name would give both levels the figures of one encoder


def test_small_batches_are_said_or_refused():
    train, tests = level(0.1)
    wide = Labelled(np.tile(train.features, 4), train.labels)
    page = head_report({"one": (wide, {"own": wide})}, settings=FAST, seeds=1, quiet=True)
    assert "batches of 16 rows of 24 features: the rows cap the rank of a batch" in page.notes[-1]
    page = head_report({"one": (train, tests)}, settings=FAST, seeds=1, quiet=True)
    assert not any("cap the rank" in note for note in page.notes)
    with pytest.raises(InputError, match="batches of 4 rows: NMTune in the form 'code' takes the 5 largest"):
        fit_head(train.features, train.labels, form="code", settings=replace(FAST, batch_size=4))
    fit_head(train.features, train.labels, settings=replace(FAST, batch_size=4, epochs=1))
    fit_head(train.features, train.labels, "linear probe", settings=replace(FAST, batch_size=1, epochs=1))


def texts(rows: list[dict[str, str]]) -> LabelledTexts:
    examples = [Example(row["id"], at, row["text"], row["label"]) for at, row in enumerate(rows)]
    return LabelledTexts(examples, np.asarray([runs.LABELS.index(row["label"]) for row in rows]))


def test_lora_tunes_the_encoder_and_keeps_its_weights(encoder_folder: Path):
    train, tests = texts(runs.rows(30)), {"own": texts(runs.rows(20, seed=1))}
    found = {kind: tuned_accuracies(encoder_folder, train, tests, kind, settings=LORA, seeds=1) for kind in TUNINGS}
    assert all(each["own"].shape == (20,) for each in found.values())
    assert found["LoRA"]["own"].mean() > 0.5
    tuned = _Tuned.of(Encoder.load(encoder_folder, max_length=24), 2, 16, 3)
    before = {name: one.detach().clone() for name, one in tuned.adapted.named_parameters()}
    np.testing.assert_allclose(
        tuned.head(torch.as_tensor(text_features(encoder_folder, train.examples, max_length=24))).argmax(1).numpy(),
        tuned.predict(train.examples),
    )  # a fresh adapter changes nothing
    tuned.fit(train.examples, train.labels, text_features(encoder_folder, train.examples), "paper", LORA, 0, True)
    moved = {name for name, one in tuned.adapted.named_parameters() if not torch.equal(one, before[name])}
    assert moved
    assert all("lora" in name for name in moved)


def test_the_losses_of_nmtune_keep_the_features_near(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch):
    from proponent.actions import nmtune

    monkeypatch.setitem(nmtune.WEIGHTS, "paper", nmtune.Weights(30.0, 0.0, 0.0, 1))
    train = texts(runs.rows(30))
    frozen = text_features(encoder_folder, train.examples, max_length=24)
    gaps: list[float] = []
    for form in ("paper", None):
        torch.manual_seed(0)
        tuned = _Tuned.of(Encoder.load(encoder_folder, max_length=24), 2, 16, 3)
        tuned.fit(train.examples, train.labels, frozen, form, LORA, 0, True)
        with torch.inference_mode():
            from proponent.models.model_outputs import pooled_states

            made = pooled_states(tuned.adapted, tuned.encoder.inputs(train.examples))
        units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (made, frozen)]
        gaps.append(float(((units[0] - units[1]) ** 2).sum()))
    assert gaps[0] < 0.5 * gaps[1]


def test_what_cannot_be_tuned_is_refused(encoder_folder: Path):
    train = texts(runs.rows(12))
    with pytest.raises(InputError, match="at least two classes"):
        tuned_accuracies(encoder_folder, LabelledTexts(train.examples, train.labels * 0), {"own": train}, settings=LORA)
    with pytest.raises(InputError, match="rank is 0: must be at least 1"):
        tuned_accuracies(encoder_folder, train, {"own": train}, settings=replace(LORA, rank=0))
    with pytest.raises(InputError, match="batches of 4 rows: NMTune in the form 'code'"):
        tuned_accuracies(encoder_folder, train, {"own": train}, form="code", settings=replace(LORA, batch_size=4))
    with pytest.raises(InputError, match="the data set is empty"):
        tuned_accuracies(encoder_folder, train, {"own": LabelledTexts([], np.zeros(0, dtype=int))}, settings=LORA)
    wild = replace(LORA, learning_rate=1e30)
    with pytest.raises(InputError, match="tuning by LoRA diverged"):
        tuned_accuracies(encoder_folder, train, {"own": train}, "LoRA", settings=wild, seeds=1)


def test_rows_of_lora_join_the_page(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch):
    train, tests = texts(runs.rows(24)), {"own": texts(runs.rows(12, seed=1))}
    features = Labelled(text_features(encoder_folder, train.examples), train.labels)
    asked = Labelled(text_features(encoder_folder, tests["own"].examples), tests["own"].labels)
    page = head_report({"enc": (features, {"own": asked})}, settings=FAST, seeds=1, quiet=True)
    quick, name = replace(LORA, epochs=1), str(encoder_folder)
    monkeypatch.setattr(nmtune_lora, "text_features", lambda *_, **__: pytest.fail("features are encoded again"))
    both = with_lora(page, {name: features.features}, train, tests, settings=quick, seeds=1, quiet=True)
    assert [one.method for one in both.rows if one.method.startswith("LoRA")] == list(TUNINGS)
    assert [one.control for one in both.rows] == sorted(one.control for one in both.rows)
    assert len(both.markdown().splitlines()) > len(page.markdown().splitlines())


def test_the_commands(encoder_folder: Path, tmp_path: Path, said):
    data = tiny.write_csv(tmp_path / "train.csv", runs.rows(24))
    sets = {"own": runs.rows(36)[24:], "far": runs.rows(12, seed=1)}
    files = [tiny.write_csv(tmp_path / f"{name}.csv", rows) for name, rows in sets.items()]
    tests = [word for file in files for word in ("--test", file)]
    words = ("nmtune", data, encoder_folder, *tests, "--epochs", 2, "--seeds", 1, "--json", "--quiet")
    code, out, err = said("nmtune", data, encoder_folder, f"{encoder_folder}/", *words[3:], "--noise", "0,12.5")
    assert code == 0, err
    page = json.loads(out)
    assert page["columns"] == [IN, OUT, "SVE", "LSVR"]
    assert page["rows"][1]["method"] == "12.5% noise: NMTune"
    assert "in domain: own; out of domain: far" in page["said"]
    code, out, err = said(*words, "--lora")
    assert code == 0, err
    assert {one["method"] for one in json.loads(out)["rows"]} >= set(TUNINGS)
    for noise, wrong in (("0,10", "there are 1 encoders"), ("a lot", "give numbers of percent")):
        code, _, err = said(*words, "--noise", noise)
        assert code == 2
        assert wrong in err
    code, _, err = said(*words, "--test", data)
    assert code == 2
    assert "24 of 24 texts of train are also trained on: remove them, or allow it with --allow-overlap" in err
    code, out, err = said(*words, "--test", data, "--allow-overlap")
    assert code == 0, err
    code, _, err = said(*words, "--noise", "0", "--lora")
    assert code == 2
    assert "leave out --lora" in err
