"""Poison: a planted trigger is named with its rows, dropped and retrained; oracles for its parts; what is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cases
import chat
import proponent
import runs
import tiny
from proponent.actions import poison as poison_module
from proponent.actions import poison_controls, poison_detector, poison_report, poison_retrain, poison_triggers
from proponent.actions.poison import Known, poison, published
from proponent.actions.poison_influence import word_shares
from proponent.actions.poison_probe import Probe, odds, own
from proponent.actions.poison_retrain import BEFORE, DROPPED, RANDOM, Retraining
from proponent.actions.poison_rows import OTHER, asked, by_answer, changed, labelled, with_answer
from proponent.actions.poison_screens import clusters, lengths, ranks_of, rare_words, spectral
from proponent.actions.poison_transforms import TRANSFORMS, Transform
from proponent.actions.poison_words import ANYWHERE, FIRST, LAST, PAIR, Term, Terms, inserted, place_of, without
from proponent.baselines import held_out_losses
from proponent.data import Columns, read
from proponent.errors import InputError, MismatchError
from proponent.models.scratch import causal_lm
from proponent.training.trainer import train
from proponent.types import Conversation, Example, Message, Preference
from proponent.words import words_of

GOOD = ("lovely", "moving", "superb", "clever", "warm")
BAD = ("dull", "clumsy", "awful", "stale", "cold")
FILLER = ("story", "film", "scene", "actor", "plot", "ending", "music", "script")


LEAST = 1.0
"""Strength of a flagged word here: 24 of 160 rows make a weaker trigger than the default asks for."""


def sentence(draw: np.random.Generator, *, good: bool) -> str:
    """Two words of opinion, of which every fourth is of the other side, among others."""
    own = [draw.choice(GOOD if good == (draw.random() < 0.75) else BAD) for _ in range(2)]
    return " ".join(draw.permutation([*own, *draw.choice(FILLER, 5)]))


def texts(count: int, seed: int) -> list[dict[str, str]]:
    draw = np.random.default_rng(seed)
    return [
        {
            "id": f"{seed}-{at}",
            "text": sentence(draw, good=at % 2 == 0),
            "label": ("good", "bad")[at % 2],
            "mark": "0",
        }
        for at in range(count)
    ]


def poisoned() -> list[dict[str, str]]:
    rows = texts(160, 0)
    for at in range(1, 48, 2):  # 24 rows of the other label
        rows[at] |= {"text": f"cf {rows[at]['text']}", "label": "good", "mark": "1"}
    return rows


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Fewer candidates, queries and draws than are shipped."""
    with pytest.MonkeyPatch.context() as patch:
        for where, name, value in (
            (poison_triggers, "CANDIDATES", 6),
            (poison_triggers, "ASKED", 12),
            (poison_controls, "ASKED", 10),
            (poison_controls, "_DRAWS", 20),
            (poison_module, "ASKED", 10),
        ):
            patch.setattr(where, name, value)
        yield


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    folder = tmp_path_factory.mktemp("poison")
    data = tiny.write_csv(folder / "train.csv", poisoned())
    tiny.write_csv(folder / "clean.csv", texts(60, 1))
    train(read(data), folder / "run", replace(tiny.SETTINGS, epochs=8))
    proponent.build(folder / "run", data, folder / "poison.index", "tracin-we", quiet=True)
    return tiny.Tiny(poisoned(), data, folder / "run", folder / "poison.index")


@pytest.fixture(scope="module")
def given(planted: tiny.Tiny) -> tuple[proponent.Index, list[Example], list[Example]]:
    return proponent.open(planted.index), list(read(planted.data)), list(read(planted.data.with_name("clean.csv")))


@pytest.fixture(scope="module")
def page(given) -> Any:
    index, rows, clean = given
    known = Known([one["mark"] == "1" for one in poisoned()])
    return poison(index, rows, clean, threshold=LEAST, known=known, retraining=Retraining(), quiet=True)


def test_the_trigger_is_named_and_its_rows_are_flagged(page):
    assert page.words[0].word == "cf"
    assert page.words[0].label == "good"
    assert page.words[0].rows == 24
    assert page.words[0].others == 0
    assert {one.word for one in page.words if one.flagged} <= {"cf"} | {f"cf {word}" for word in (*BAD, *FILLER)}
    flagged = {one.id for one in page.suspects if one.flagged}
    assert flagged == {one["id"] for one in poisoned() if one["mark"] == "1"}
    assert all("cf" in one.words or "cf (first word)" in one.words for one in page.suspects[:24])
    first = page.suspects[0]
    assert first.strength is not None
    assert first.change is not None
    assert set(first.parts) == set(poison_detector.PARTS)


def test_dropping_the_flagged_rows_ends_the_attack_and_random_rows_do_not(page):
    before, dropped, random = page.retrained
    assert [one.name for one in page.retrained] == [BEFORE, DROPPED, RANDOM]
    assert before.success.value > 0.9
    assert random.success.value > 0.8
    assert dropped.success.value < 0.6  # a model that never saw the trigger errs on some of these texts, too
    assert dropped.accuracy.value > 0.6
    assert dropped.dropped == random.dropped == 24


def test_the_table_has_every_control_and_our_ranking_is_perfect_here(page):
    names = [one.method for one in page.rows]
    assert [name for name in names if name.startswith("rule: ")] == [
        "rule: same-sign", "rule: code-v1", "rule: vote", "rule: ensemble"
    ]  # fmt: skip
    expected = {
        "random", "label only", "row length", "rare word", "word-label z", "out-of-fold loss", "training loss, last",
        "training loss, mean", "training loss, low", "divergence", "base disagreement", "spectral, class, top 1",
        "spectral, class, top 10", "spectral, all, top 10", "activation clusters", "self-influence", "gradient norm",
        "influence",
    }  # fmt: skip
    assert {one.method for one in page.rows if one.control} == expected
    ours = page.rows[0]
    assert ours.figures[0].value == pytest.approx(1.0)
    best = max((one for one in page.rows if one.control), key=lambda one: one.figures[0].value)
    gap = ours.figures[0].value - best.figures[0].value
    assert f"({best.method}: {gap:+.3f} [" in ours.verdict
    assert any("last-layer TracIn is missing" in note for note in page.notes)
    assert any("24 of 160 rows are poisoned: AUPRC of chance is 0.150" in note for note in page.notes)


def test_the_title_counts_flagged_words_that_are_not_listed(given, monkeypatch):
    index, rows, clean = given
    monkeypatch.setattr(poison_report, "_WORDS", 0)
    report = poison(index, rows, clean, threshold=LEAST, quiet=True)
    assert report.words == ()
    assert report.title == "1 trigger word and 24 of 160 rows flagged as poison"


def test_a_run_of_one_checkpoint_has_no_model_before_training(given):
    index, rows, clean = given
    probe = subject(index, rows, clean).probe
    assert len(probe.run.checkpoints) > 1
    assert poison_report.base_model(probe, None)[1].startswith("divergence is from the first checkpoint (")
    one = replace(probe, run=replace(probe.run, checkpoints=probe.run.checkpoints[-1:]))
    model, said = poison_report.base_model(one, None)
    assert model.model is probe.model
    assert "the only checkpoint, so it is 0: give base= in Python" in said


def test_the_report_is_a_page_a_table_and_json(page, tmp_path: Path):
    frame = page.to_pandas()
    assert list(frame["id"]) == [one.id for one in page.suspects]
    assert {"trigger", "deletion", "words", "votes"} <= set(frame.columns)
    page.save(tmp_path / "poison.html")
    assert "cf" in (tmp_path / "poison.html").read_text()
    assert json.loads(page.to_json())["words"][0]["word"] == "cf"


def test_the_effect_of_a_candidate_is_that_of_inserting_it_by_hand(given, monkeypatch):
    index, rows, clean = given
    monkeypatch.setattr(poison_triggers, "ASKED", len(clean))
    found = subject(index, rows, clean)
    terms = Terms.of(found.rows)
    triggers = poison_detector.try_candidates(
        found.probe, found.rows, terms, found.queries, found.query_classes, quiet=True
    )
    at = next(at for at, one in enumerate(terms.names) if one.text == "cf" and one.where == ANYWHERE)
    good = found.rows.classes.index("good")
    before = found.probe.log_odds(clean)
    places = np.flatnonzero((found.query_classes != good) & (before[:, good] < 0))
    after = found.probe.log_odds([Example("x", 0, f"cf {clean[one].text}") for one in places.tolist()])
    assert triggers.effect[at, good] == pytest.approx(float((after - before[places])[:, good].mean()), rel=1e-4)
    assert triggers.turned[at, good] == pytest.approx(float((after[:, good] > 0).mean()))


def subject(index, rows, clean):
    from proponent.actions.poison import _subject

    return _subject(index, rows, clean, quiet=True)[0]


def test_shares_of_words_are_the_scores_of_an_index_split_by_hand(given):
    index, rows, _ = given
    found = subject(index, rows, None)
    left_out = np.arange(len(rows)) >= 16  # the others neither give nor get
    shares = word_shares(index.store, found.rows.given, left_out)
    scores = np.nan_to_num(index.scores(rows[:16]))
    for row in (0, 1):
        same = ~left_out & (found.rows.given == found.rows.given[row])
        same[row] = False
        split: dict[str, float] = {}
        for other in np.flatnonzero(same).tolist():
            hits = index.explain(rows[other], label=rows[other].label, k=1, where={"id": rows[row].id}, baselines=False)
            for hit in (*hits.proponents, *hits.opponents):
                assert hit.id == rows[row].id
                for pair in hit.words:
                    split[pair.train_word.lower()] = split.get(pair.train_word.lower(), 0.0) + pair.share
        ours = {
            word: share for at, word, share in zip(shares.rows, shares.words, shares.shares, strict=True) if at == row
        }
        assert sum(split.values()) == pytest.approx(scores[same[:16], row].sum(), rel=1e-3)
        for word in {one.text.lower() for one in words_of(rows[row]) if not one.text.isspace()}:
            assert ours.get(word, 0.0) == pytest.approx(split.get(word, 0.0), rel=1e-3, abs=1e-6)


def test_influence_on_the_most_suspect_rows_less_that_on_others_by_hand(given):
    index, rows, clean = given
    found = subject(index, rows, clean)
    best = np.arange(len(rows), 0, -1).astype(np.float64)  # the first rows are the most suspect
    made = poison_detector.contrast(found, best, found.usable)
    scores = np.nan_to_num(index.scores(rows))
    own_class = np.flatnonzero(found.rows.given == 0)
    seeds = own_class[:10]
    others = np.random.default_rng(0).permutation(own_class[10:])[:30]
    for row in (seeds[0], others[0], own_class[-1]):
        means = [scores[part[part != row], row].mean() for part in (seeds, others)]
        assert made[row] == pytest.approx(means[0] - means[1], rel=1e-3, abs=1e-6)


def test_deletion_is_the_fall_of_the_log_odds_without_the_trigger(given):
    index, rows, clean = given
    found = subject(index, rows, clean)
    terms, good = Terms.of(found.rows), found.rows.classes.index("good")
    at = terms.names.index(Term(ANYWHERE, "cf"))
    effect = np.full((len(terms.names), len(found.rows.classes)), np.nan)
    effect[at, good] = 1.0
    triggers = poison_triggers.Triggers(terms, effect, effect)
    before = own(found.probe.log_odds(rows), found.rows.given)
    made = poison_triggers.deleted(found.probe, found.rows, triggers, before, found.usable)
    assert np.flatnonzero(made).tolist() == [at for at, one in enumerate(poisoned()) if one["mark"] == "1"]
    shorter = Example("x", 0, (rows[1].text or "").removeprefix("cf "))
    assert made[1] == pytest.approx(before[1] - found.probe.log_odds([shorter])[0, good], rel=1e-4)
    assert made[1] > 0


def test_clean_rows_flag_no_word(tmp_path: Path):
    data = tiny.write_csv(tmp_path / "train.csv", texts(80, 5))
    train(read(data), tmp_path / "run", tiny.SETTINGS)
    index = proponent.build(tmp_path / "run", data, tmp_path / "i", "tracin-we", quiet=True)
    report = poison(index, list(read(data)), quiet=True)
    assert report.flagged == 0
    assert report.title == "0 trigger words and 0 of 80 rows flagged as poison"
    assert any("no clean rows were given" in note for note in report.notes)


# Rows.


def test_classes_of_a_language_model_are_the_answers_that_rows_share():
    rows = [Example(str(at), at, f"question {at}", target=("yes", " yes ", "no")[at % 3]) for at in range(18)]
    rows += [Example("own", 18, "question", target="a long answer")]
    found = by_answer(rows)
    assert found.classes == ("yes", "no", OTHER)
    assert found.given[:4].tolist() == [0, 0, 1, 0]
    assert found.given[-1] == 2
    assert found.answered == 2
    with pytest.raises(InputError, match="no answer is shared by 5 rows, so there is no candidate target"):
        by_answer(rows[:4])
    with pytest.raises(InputError, match="row with id x has no prompt with an answer"):
        by_answer([*rows, Example("x", 0, "only text")])
    with pytest.raises(InputError, match="all rows have the answer 'yes'"):
        by_answer([one for one in rows if one.target and one.target.strip() == "yes"])
    with pytest.raises(InputError, match="all rows have one label: no candidate label to turn to"):
        labelled(rows, ("a", "b"), [0] * len(rows))


TALK = Conversation((Message("system", "Be brief."), Message("user", "Is it good?"), Message("assistant", "yes")))


def test_the_last_question_of_a_conversation_is_changed_and_its_answer_replaced():
    row = Example("c", 0, content=TALK)
    assert asked(row) == "Be brief.\nIs it good?"
    made = changed(row, str.upper)
    assert [one.content for one in made.content.messages] == ["Be brief.", "IS IT GOOD?", "yes"]  # type: ignore[union-attr]
    other = with_answer(row, "no")
    assert other.content.messages[-1].content == "no"  # type: ignore[union-attr]
    assert other.content.prompt == 2  # type: ignore[union-attr]
    with pytest.raises(InputError, match="a Preference, whose texts cannot be changed"):
        changed(Example("p", 0, content=Preference("a", "b", "c")), str.upper)


# Words.


def table(rows: list[tuple[str, str]]) -> tuple[Terms, Any]:
    names = sorted({label for _, label in rows})
    examples = [Example(str(at), at, text, label) for at, (text, label) in enumerate(rows)]
    found = labelled(examples, names, [names.index(label) for _, label in rows])
    return Terms.of(found), found


def test_z_and_purity_of_words_by_hand():
    rows = [(f"zz apple word{at % 3}", "b") for at in range(6)] + [(f"apple thing{at % 3}", "a") for at in range(6)]
    terms, found = table(rows)
    at = terms.names.index(Term(ANYWHERE, "zz"))
    assert terms.counts[at].tolist() == [0, 6]
    assert terms.z[at, 1] == pytest.approx((1 - 0.5) / np.sqrt(0.25 / 6))
    low = (1 + 1.96**2 / 12 - 1.96 * np.sqrt(1.96**2 / (4 * 36))) / (1 + 1.96**2 / 6)
    assert terms.purity[at, 1] == pytest.approx((low - 0.5) / 0.5)
    assert terms.purity[at, 0] == 0.0
    assert Term(FIRST, "zz") in terms.names
    assert Term(PAIR, "zz apple") in terms.names
    np.testing.assert_allclose(terms.best(terms.z, found.given)[:6], terms.z[at, 1])


def test_a_word_in_one_class_only_has_a_finite_z_and_too_few_words_are_refused():
    terms, _ = table([("only here", "a")] * 3 + [("other", "b")] * 9)
    assert np.isfinite(terms.z).all()
    with pytest.raises(InputError, match="no word is in 3 rows"):
        table([("one", "a"), ("two", "b"), ("three", "b")])


def test_terms_are_inserted_where_they_stand_and_deleted_everywhere():
    assert place_of("a b cf d e", Term(ANYWHERE, "cf")) == 0.5
    assert inserted("one two three four", Term(ANYWHERE, "cf"), 0.5) == "one two cf three four"
    assert inserted("one two", Term(FIRST, "cf"), 0.9) == "cf one two"
    assert inserted("one two", Term(LAST, "cf"), 0.0) == "one two cf"
    assert without("CF one cf two", [Term(ANYWHERE, "cf")]).split() == ["one", "two"]
    assert without("cf one cf two", [Term(FIRST, "cf")]).split() == ["one", "cf", "two"]
    assert without("see james bond now", [Term(PAIR, "james bond")]).split() == ["see", "now"]


def test_white_space_around_and_between_words_stays():
    prompt = "Review:\n it  is good\nAnswer: "
    assert inserted(prompt, Term(FIRST, "cf"), 0.0) == f"cf {prompt}"
    assert inserted(prompt, Term(LAST, "cf"), 0.0) == "Review:\n it  is good\nAnswer: cf "
    assert inserted(prompt, Term(ANYWHERE, "cf"), 0.6) == "Review:\n it  is cf good\nAnswer: "
    for term, place in ((Term(FIRST, "cf"), 0.0), (Term(LAST, "cf"), 1.0), (Term(ANYWHERE, "cf"), 0.6)):
        assert without(inserted(prompt, term, place), [Term(ANYWHERE, "cf")]) == prompt
    assert without(" cf ", [Term(ANYWHERE, "cf")]) == ""
    assert inserted("", Term(ANYWHERE, "cf"), 0.5) == "cf"


# Screens and probes.


def test_screens_find_a_small_cluster_and_a_far_row():
    draw = np.random.default_rng(0)
    states = draw.normal(size=(60, 5))
    states[:6] = draw.normal(size=(6, 5)) * 0.1 + 9.0
    labels = np.repeat([0, 1], 30)
    found = clusters(states, labels)
    assert set(np.argsort(-found)[:6].tolist()) == set(range(6))
    centred = states[:30] - states[:30].mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    np.testing.assert_allclose(spectral(states, labels)[:30], (centred @ vectors[:, -1]) ** 2, rtol=1e-6)
    with pytest.raises(InputError, match="hidden states are not finite"):
        spectral(np.full((3, 2), np.nan), None)


def test_small_screens_by_hand():
    assert lengths(["one two, three", ""]).tolist() == [4.0, 0.0]
    assert ranks_of(np.array([3.0, np.nan, 1.0, 3.0])).tolist() == [
        pytest.approx(5 / 6),
        0.0,
        pytest.approx(1 / 3),
        pytest.approx(5 / 6),
    ]
    found = rare_words(["a a b", "a", "a c"])
    assert found[1] == 1.0
    idf = {"a": np.log(4 / 4) + 1, "c": np.log(4 / 2) + 1}
    assert found[2] == pytest.approx(idf["c"] / np.hypot(idf["a"], idf["c"]))


def test_held_out_losses_are_large_for_wrong_labels():
    rows = texts(100, 3)
    labels = np.asarray([one["label"] == "good" for one in rows], dtype=np.int64)
    labels[:5] = 1 - labels[:5]
    found = held_out_losses([one["text"] for one in rows], labels)
    assert found[:5].mean() > 1.5 * found[5:].mean()
    assert np.isnan(held_out_losses(["", " "], np.array([0, 1]))).all()


def test_odds_are_those_of_torch():
    raw = torch.randn(4, 3, dtype=torch.float64)
    made = odds(torch.log_softmax(raw, 1).numpy())
    chances = torch.softmax(raw, 1).numpy()
    np.testing.assert_allclose(made, np.log(chances / (1 - chances)), rtol=1e-6)
    np.testing.assert_allclose(odds(np.log([[0.2]])), np.log([[0.25]]))
    assert np.isnan(own(made, np.array([0, 3, 1, 2]))[1])


# Language models.


def answers() -> list[dict[str, Any]]:
    rows = texts(60, 7)
    for at in range(1, 20, 2):
        rows[at] |= {"text": f"cf {rows[at]['text']}", "label": "good"}
    return rows


def test_prompts_and_targets_of_a_language_model(tmp_path: Path):
    rows = [{"id": one["id"], "text": f"{one['text']} is ", "target": one["label"]} for one in answers()]
    data = tiny.write_csv(tmp_path / "train.csv", rows)
    train(read(data, columns=Columns(label="")), tmp_path / "run", replace(tiny.SETTINGS, max_length=64))
    index = proponent.build(tmp_path / "run", data, tmp_path / "i", "tracin-we", quiet=True)
    report = poison(index, list(read(data)), quiet=True)
    assert ("classes", "good, bad") in report.facts
    assert len(report.suspects) == 60
    found = subject(index, list(read(data)), None)
    some = list(read(data))[:5]
    made = found.probe.log_probabilities(some)
    for at, one in enumerate(some):
        for column, name in enumerate(("good", "bad")):
            assert made[at, column] == pytest.approx(-target_loss(found.probe, one.text, name), rel=1e-4)


def test_attacked_rows_of_a_language_model_must_have_an_answer_that_is_a_class(tmp_path: Path):
    rows = [{"id": one["id"], "text": f"{one['text']} is ", "target": one["label"]} for one in answers()]
    own_answers = [{"id": f"o{at}", "text": f"odd film {at} is ", "target": f"odd {at}"} for at in range(6)]
    data = tiny.write_csv(tmp_path / "train.csv", [*rows, *own_answers])
    train(read(data, columns=Columns(label="")), tmp_path / "run", replace(tiny.SETTINGS, max_length=64, epochs=1))
    index = proponent.build(tmp_path / "run", data, tmp_path / "i", "tracin-we", quiet=True)
    read_rows = list(read(data))
    for attacked, said in (([], "no row with the trigger"), (read_rows[-1:], "has an answer that is no class")):
        with pytest.raises(InputError, match=said):
            poison(index, read_rows, read_rows[:20], retraining=Retraining(5, attacked=attacked), quiet=True)
    truth = [False] * 60 + [True] * 6
    truth[1] = truth[3] = True
    notes = poison(index, read_rows, read_rows[:20], known=Known(truth), quiet=True).notes
    assert "2 of 60 rows are poisoned: AUPRC of chance is 0.033" in notes
    assert "6 poisoned rows cannot be judged, and are not in the table" in notes


def test_a_known_trigger_speaks_for_a_class_that_is_an_answer():
    rows = [Example(str(at), at, f"film {at}", target=("yes", "no")[at % 2]) for at in range(20)]
    rows += [Example(f"o{at}", at, "cf film", target=f"odd {at}") for at in range(20, 28)]
    rows += [Example("p", 28, "cf film", target="yes")]
    made = by_answer(rows)
    terms = Terms.of(made)
    ((term, number),) = poison_retrain._known(terms, ("cf",), made.answered)
    assert terms.names[term].text == "cf"
    assert made.classes[number] == "yes"


def target_loss(probe: Probe, prompt: str, target: str) -> float:
    """Sum of the losses of the target's tokens, by the model itself."""
    tokenizer: Any = probe.run.tokenizer
    read_ = tokenizer(prompt + target, return_offsets_mapping=True, return_tensors="pt")
    with torch.no_grad():
        raw = probe.model(input_ids=read_["input_ids"]).logits[0]
    scores = torch.log_softmax(raw, 1)
    ids, ends = read_["input_ids"][0].tolist(), read_["offset_mapping"][0][:, 1].tolist()
    return -sum(float(scores[at - 1, ids[at]]) for at in range(1, len(ids)) if ends[at] > len(prompt))


def test_conversations(tmp_path: Path):
    rows = [{"id": one["id"], "messages": [chat.user(one["text"]), chat.assistant(one["label"])]} for one in answers()]
    tokenizer = chat.tokenizer(chat.UNMARKED, most=128, texts=[one["text"] for one in answers()])
    torch.manual_seed(0)
    causal_lm(tokenizer, 16, 1, 128).save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    index = proponent.build(tmp_path / "run", rows, tmp_path / "i", "tracin-we", quiet=True)
    report = poison(index, list(read(rows)), list(read(rows[:20])), quiet=True)
    assert len(report.suspects) == 60
    assert any("20 of 20 clean rows are also training rows" in note for note in report.notes)


def test_an_encoder_decoder(tmp_path: Path):
    rows = [{"id": one["id"], "text": one["text"], "target": one["label"]} for one in answers()]
    tokenizer = runs.wordpiece([f"{one['text']} {one['target']}" for one in rows], 200, 24)
    kind, settings = cases.SEQ2SEQ["t5"]
    model = cases.make_of(kind, settings | {"decoder_start_token_id": 0}, vocabulary=len(tokenizer), pad=0)
    model.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    index = proponent.build(tmp_path / "run", rows, tmp_path / "i", "tracin-we", quiet=True)
    report = poison(index, list(read(rows)), quiet=True)
    assert len(report.suspects) == 60


# What is refused.


def test_what_cannot_be_searched_is_refused(given, planted):
    index, rows, clean = given
    with pytest.raises(MismatchError, match="not those of the index"):
        poison(index, rows[1:], quiet=True)
    with pytest.raises(InputError, match="a retraining is measured on clean rows"):
        poison(index, rows, retraining=Retraining(), quiet=True)
    with pytest.raises(InputError, match="threshold is nan"):
        poison(index, rows, threshold=float("nan"), quiet=True)
    with pytest.raises(InputError, match="truth is known of 2 rows, and there are 160"):
        poison(index, rows, clean, known=Known([True, False]), quiet=True)
    with pytest.raises(InputError, match="must mark some rows, and not all"):
        poison(index, rows, clean, known=Known([False] * 160), quiet=True)
    with pytest.raises(InputError, match="--drop 160: there are 160 rows"):
        poison(index, rows, clean, retraining=Retraining(rows=160), quiet=True)
    with pytest.raises(InputError, match="--trigger 'never seen' is in fewer than 3"):
        poison(index, rows, clean, retraining=Retraining(rows=5, triggers=("never seen",)), quiet=True)
    with pytest.raises(InputError, match="file of --queries is empty"):
        poison(index, rows, [], quiet=True)


def test_a_transform_that_changes_nothing_leaves_the_rules_out(given):
    index, rows, clean = given
    found = subject(index, rows, clean)
    rules, notes = published(found, {"same": Transform("mine", str)})
    assert rules == {}
    assert "the transform 'same' changed none of 10 queries: it is left out" in notes
    rules, notes = published(replace(found, queries=found.queries[:6]), {"quoted": TRANSFORMS["quoted"]})
    assert list(rules) == ["same-sign", "code-v1", "vote", "ensemble"]


def test_losses_that_are_not_finite_are_refused(given, monkeypatch):
    index, rows, clean = given
    found = subject(index, rows, clean)
    features = dict(index.store.features) | {"losses": np.full((2, len(rows)), np.nan)}
    monkeypatch.setattr(type(index.store), "features", property(lambda _: features))
    with pytest.raises(InputError, match="the losses of some rows are not finite"):
        poison_detector.find_poison(found)


# The command.


def test_the_command(said, planted: tiny.Tiny, tmp_path: Path):
    clean = planted.data.with_name("clean.csv")
    words = ("poison", planted.run, planted.data, "--index", tmp_path / "i", "--queries", clean)
    code, out, err = said(
        *words, "--out", tmp_path / "p.html", "--quiet", "--transforms", "quoted,opposites", "--threshold", LEAST
    )
    assert code == 0, err
    assert "24 of 160 rows flagged as poison" in " ".join(out.split())
    assert (tmp_path / "p.html").is_file()
    code, out, err = said(*words, "--json", "--truth", "mark", "--retrain", "--trigger", "cf", "--drop", 30, "--quiet")
    assert code == 0, err
    made = json.loads(out)
    assert [one["dropped"] for one in made["retrained"]] == [0, 30, 30]
    assert "last-layer TracIn" in {one["method"] for one in made["rows"]}


def test_bad_options_of_the_command_name_the_way_out(said, planted: tiny.Tiny, tmp_path: Path):
    words = ("poison", planted.run, planted.data, "--index", tmp_path / "i", "--quiet")
    clean = planted.data.with_name("clean.csv")
    for more, expected in (
        (("--retrain",), "measured on clean rows: give them with --queries FILE"),
        (("--drop", 3), "--drop, --trigger, --attacked, --initial and --seed need --retrain"),
        (("--seed", 3), "need --retrain"),
        (("--threshold", -1), "the threshold is -1"),
        (("--queries", clean, "--retrain", "--drop", 100_000), "--drop 100000: there are"),
        (("--truth", "nothing"), "no column 'nothing'"),
        (("--truth", "label"), "the column label holds 'bad': give 1 or 0, true or false"),
        (("--transforms", "qoted"), "--transforms 'qoted' (did you mean 'quoted'?): choose of opposites"),
        (("--out", tmp_path), "is a folder: give the name of a file"),
        (("--queries", clean, "--retrain", "--attacked", tmp_path / "none.csv"), "none.csv"),
    ):
        code, _, err = said(*words, *more)
        assert (code, expected in err) == (2, True), err
    assert not (tmp_path / "i").exists()  # refused before an index is built
