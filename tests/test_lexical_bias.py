"""Lexical bias: z against the closed form, weights against slow sums, the permutation test, the command, bad input."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proponent
import tiny
from proponent.actions.biased_words import BiasedWords
from proponent.actions.lexical_bias import lexical_bias, permutation_test, strongest, write_weighted
from proponent.actions.run_predictions import class_probabilities
from proponent.actions.word_labels import WordTable, word_label_z
from proponent.actions.word_weights import Weighting, _slope, _with_all, effective_size, reweight
from proponent.cli import main
from proponent.data import Columns, read
from proponent.errors import DataError, InputError, MismatchError
from proponent.models import Run
from proponent.words import split


def planted(n: int, seed: int = 0, *, biased: int = 20, words: int = 100, effect: float = 0.8) -> list[dict[str, Any]]:
    """Texts of independent words in random order, the first of which go with a label."""
    generator = np.random.default_rng(seed)
    given = generator.integers(0, 2, n)
    lean = np.where(np.arange(words) < biased, effect * (1 - 2 * (np.arange(words) % 2)), 0.0)
    chance = np.clip(0.15 * np.exp(np.where(given[:, None] == 1, lean, -lean) / 2), 0, 1)
    held = generator.random((n, words)) < chance
    texts = [" ".join(f"w{word}" for word in generator.permutation(np.flatnonzero(one))) or "w0" for one in held]
    return [{"text": text, "label": ("no", "yes")[label]} for text, label in zip(texts, given, strict=True)]


def slow_z(rows: Sequence[dict[str, Any]], weights: Sequence[float], word: str, label: str) -> float:
    """The formula of the module's docstring, one loop."""
    holding = [place for place, row in enumerate(rows) if word in row["text"].lower().split()]
    prior = sum(weights[place] for place, row in enumerate(rows) if row["label"] == label) / sum(weights)
    share = sum(weights[place] for place in holding if rows[place]["label"] == label)
    share /= sum(weights[place] for place in holding)
    return (share - prior) / (prior * (1 - prior) / len(holding)) ** 0.5


# z.


@given(st.integers(0, 10_000), st.booleans())
def test_z_is_the_closed_form(seed: int, weighted: bool) -> None:
    generator = np.random.default_rng(seed)
    rows = [
        {"text": " ".join(generator.choice(list("abcdE"), 3)), "label": "xyz"[generator.integers(3)]} for _ in range(30)
    ]
    rows += [{"text": "a b", "label": label} for label in "xyz"]
    weights = generator.uniform(0.1, 3.0, len(rows)) if weighted else np.ones(len(rows))
    table = word_label_z(rows, 1)
    found = table.z(weights)
    for number, (column, word) in enumerate(table.names):
        assert column == "text"
        assert table.counts[number] == sum(word in row["text"].lower().split() for row in rows)
        for label, name in enumerate(table.classes):
            assert found[number, label] == pytest.approx(slow_z(rows, weights.tolist(), word, name), abs=1e-9)
    np.testing.assert_allclose(table.z(7.5 * weights), found, atol=1e-9)
    if not weighted:
        np.testing.assert_allclose(table.z(), found, atol=1e-12)


def test_words_of_two_texts_are_counted_apart_and_once_per_example() -> None:
    rows = [
        {"text": "A dog, a DOG", "text_pair": "no dog", "label": "x"},
        {"text": "a cat", "text_pair": "dog", "label": "y"},
    ]
    table = word_label_z(rows, 1)
    counts = dict(zip(table.names, table.counts.tolist(), strict=True))
    assert counts["text", "dog"] == 1
    assert counts["text_pair", "dog"] == 2
    assert counts["text", "a"] == 2
    assert counts["text", ","] == 1
    pairs = word_label_z(rows, 1, ngram=2)
    assert ("text", "a dog") in pairs.names
    assert ("text_pair", "no dog") in pairs.names
    assert ("text", "dog no") not in pairs.names


def test_any_columns_may_be_counted() -> None:
    rows = [{"text": "t", "label": label, "note": note} for label, note in (("x", "a b"), ("y", "a"), ("y", None))]
    table = word_label_z(rows, 1, columns=["note"])
    assert table.names == (("note", "a"), ("note", "b"))
    with pytest.raises(DataError, match="no column 'nope'"):
        word_label_z(rows, 1, columns=["nope"])


def test_held_out_data_is_read_by_the_words_and_classes_of_the_data() -> None:
    table = word_label_z(planted(300), 10)
    held = word_label_z([{"text": "w1 w2 new", "label": "yes"}, {"text": "w1", "label": "no"}], known=table)
    assert held.names == table.names
    assert held.classes == table.classes
    assert held.counts[table.names.index(("text", "w1"))] == 2
    assert np.isnan(held.z()[held.counts == 0]).all()
    with pytest.raises(DataError, match="the label 'maybe', which the training data does not have"):
        word_label_z([{"text": "w1", "label": "maybe"}], known=table)


def test_the_line_of_chance_is_that_of_shuffled_labels() -> None:
    table = word_label_z(planted(800, biased=0), 20)
    shares = [float((np.abs(one.z()) > 1.96).mean()) for one in table.shuffled(40, 0)]
    assert np.mean(shares) == pytest.approx(0.05, abs=0.02)
    first, again = (next(table.shuffled(1, 3)).given for _ in range(2))
    np.testing.assert_array_equal(first, again)


# Weights.


def objective(table: WordTable, w: np.ndarray, beta: float) -> float:
    prior = np.repeat(table.prior(w)[None], len(table), axis=0)
    prior[-1] = table.prior()
    z = (table.shares(w) - prior) * np.sqrt(table.counts)[:, None] / np.sqrt(prior * (1 - prior))
    return float((z**2).mean() + beta * ((w - 1) ** 2).mean())


@given(st.integers(0, 1000))
def test_the_slope_is_that_of_the_objective(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = [{"text": " ".join(generator.choice(list("abcdef"), 4)), "label": "xyz"[place % 3]} for place in range(40)]
    table = _with_all(word_label_z(rows, 1))
    w = generator.uniform(0.2, 2.0, 40)
    w *= 40 / w.sum()
    direction = generator.normal(size=40)
    direction -= direction.mean()
    step = 1e-5 * direction
    rise = (objective(table, w + step, 1e-3) - objective(table, w - step, 1e-3)) / 2e-5
    assert _slope(table, w, table.prior(), 1e-3) @ direction == pytest.approx(rise, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_weights_remove_the_planted_words_at_the_demanded_cost(seed: int) -> None:
    rows = planted(1500, seed)
    words, pairs = word_label_z(rows, 20), word_label_z(rows, 8, ngram=2)
    w = reweight(words)
    before, after = (np.abs(words.z(one)) for one in (None, w))
    assert (after > 1.96).mean() <= 0.1 * (before > 1.96).mean()
    assert w.min() >= 0
    assert w.mean() == pytest.approx(1.0)
    assert effective_size(w) / len(w) >= 0.25
    assert words.prior(w)[1] == pytest.approx(words.prior()[1], abs=0.01)
    fall = 1 - after.mean() / before.mean()
    fall_of_pairs = 1 - np.abs(pairs.z(w)).mean() / np.abs(pairs.z()).mean()
    assert fall_of_pairs < fall / 2


def test_balanced_words_leave_the_weights_alone() -> None:
    rows = [{"text": text, "label": label} for text in ("a b", "b c", "a d") for label in ("x", "y") for _ in range(20)]
    np.testing.assert_allclose(reweight(word_label_z(rows, 5)), 1.0, atol=0.05)
    found = lexical_bias(planted(800, biased=0), quiet=True)
    assert not found.report.summaries[0].beyond
    np.testing.assert_array_equal(found.weights, 1.0)
    assert "no more words tell the label than by chance" in found.report.verdict


def test_weights_that_collapse_are_refused() -> None:
    rows = [{"text": f"a{place % 7} b{place % 11}", "label": "x" if place % 2 else "y"} for place in range(60)]
    with pytest.raises(InputError, match="collapsed"):
        reweight(word_label_z(rows, 2), Weighting(beta=0.0, steps=200, rate=50.0))
    for wrong in (Weighting(beta=-1.0), Weighting(beta=float("nan")), Weighting(steps=0)):
        with pytest.raises(InputError, match=r"--(beta|steps)"):
            reweight(word_label_z(rows, 2), wrong)


def test_a_word_of_one_class_only_is_named() -> None:
    rows = planted(600) + [{"text": "only w1", "label": "yes"}] * 25
    found = lexical_bias(rows, quiet=True)
    assert any("words occur with one label only" in note for note in found.report.notes)
    assert found.report.rows[0].word == "only" or any(one.word == "only" for one in found.report.listed)


# The permutation test.


def test_a_model_that_reads_the_words_is_found_and_one_that_does_not_is_not() -> None:
    rows = planted(2500)
    table, held = word_label_z(rows[:1500], 20), word_label_z(rows[1500:], known=word_label_z(rows[:1500], 20))
    labels = strongest(table, 50)
    assert set(labels) == {-1, 0, 1}
    z = np.nan_to_num(table.z())[:, 1]
    margin = np.zeros(len(held.given))
    np.add.at(margin, held.rows, z[held.words] / 10)
    reads = 1 / (1 + np.exp(-margin))
    found = permutation_test(np.stack([1 - reads, reads], 1), held, labels, 500, 1)
    assert found.p < 0.01
    assert found.observed > 0.01 > abs(found.null_mean)
    assert min(found.by_label) > 0
    # a model that knows the gold label, and nothing else, does not lean on words
    gold = np.where(held.given == 1, 0.9, 0.1)
    blind = permutation_test(np.stack([1 - gold, gold], 1), held, labels, 500, 1)
    assert blind.observed == pytest.approx(0.0, abs=1e-12)
    assert blind.p == pytest.approx(1.0)


def test_p_is_uniform_where_predictions_have_nothing_to_do_with_words() -> None:
    table = word_label_z(planted(800), 20)
    held = word_label_z(planted(600, 1), known=table)
    ps: list[float] = []
    for seed in range(100):
        noise = np.random.default_rng(seed).random(600)
        ps.append(permutation_test(np.stack([1 - noise, noise], 1), held, strongest(table, 50), 99, seed).p)
    assert np.mean(np.asarray(ps) <= 0.1) == pytest.approx(0.1, abs=0.09)
    assert np.mean(ps) == pytest.approx(0.5, abs=0.1)


def test_the_statistic_is_the_slow_one() -> None:
    table = word_label_z(planted(300, effect=1.5), 10)
    held = word_label_z(planted(200, 1), known=table)
    labels = strongest(table, 3)
    generator = np.random.default_rng(0)
    p = generator.random((200, 2))
    found = permutation_test(p, held, labels, 20, 0)
    total, count = 0.0, 0
    for word, label in enumerate(labels.tolist()):
        for row in held.rows[held.words == word].tolist() if label >= 0 else ():
            alike = held.given == held.given[row]
            total += p[row, label] - p[alike, label].mean()
            count += 1
    assert found.observed == pytest.approx(total / count)
    assert found.words == int((labels >= 0).sum()) == 6


def test_words_of_one_label_only_and_foreign_predictions_are_refused() -> None:
    table = word_label_z(planted(300), 10)
    with pytest.raises(InputError, match="speak for 1 label"):
        permutation_test(np.full((300, 2), 0.5), table, np.where(np.arange(len(table)) == 0, 0, -1), 20, 0)
    with pytest.raises(InputError, match="do not fit"):
        permutation_test(np.full((4, 2), 0.5), table, strongest(table, 5), 20, 0)


# Runs.


def test_a_run_is_asked_for_the_classes_of_the_data(news: tiny.Tiny) -> None:
    run, examples = Run.from_pretrained(news.run), read(news.data)
    classes = ("World", "Business", "Sports")
    found = class_probabilities(run, examples, classes, quiet=True)
    index = proponent.open(news.index)
    assert [classes[one] for one in found.argmax(1)] == index.predict(examples.texts)
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-6)
    with pytest.raises(MismatchError, match=r"predicts the classes Business, Sports, World, and .* has No, Yes"):
        class_probabilities(run, examples, ("No", "Yes"), quiet=True)
    with pytest.raises(MismatchError, match="also predicts the class Sports"):
        class_probabilities(run, examples, ("World", "Business"), quiet=True)


def test_a_language_model_is_refused(lines: tiny.Tiny) -> None:
    with pytest.raises(MismatchError, match="classifiers of one label"):
        class_probabilities(Run.from_pretrained(lines.run), read(lines.data), ("a", "b"), quiet=True)


# The bridge.


def test_shares_of_answers_are_split_by_biased_words(news: tiny.Tiny) -> None:
    index = proponent.open(news.index)
    table = word_label_z(read(news.data), 5)
    answers = list(index.explain_many(["the cup and the bank", "profit fell"], k=4, baselines=False))
    judge = BiasedWords(table)
    z = np.abs(np.nan_to_num(table.z())).max(1)
    biased = {name[1] for name, value in zip(table.names, z, strict=True) if value > 1.96}
    for answer in answers:
        shares: dict[str, float] = {}
        for hit in (*answer.proponents, *answer.opponents):
            for pair in hit.words:
                word = pair.train_word.lower()
                shares[word] = shares.get(word, 0.0) + abs(pair.share)
        found = judge.judge(answer)
        want = sum(value for word, value in shares.items() if word in biased) / sum(shares.values())
        assert found.share == pytest.approx(want)
        assert found.words == pytest.approx(sum(word in biased for word in shares) / len(shares))
        assert set(found.strongest) <= biased
    use = judge.by_use(answers)
    assert [one.use for one in use] == sorted((one.use for one in use), reverse=True)
    whole = sum(abs(pair.share) for answer in answers for hit in (*answer.proponents, *answer.opponents)
                for pair in hit.words)  # fmt: skip
    assert sum(one.use for one in use) == pytest.approx(whole)
    signed = sum(hit.score for answer in answers for hit in (*answer.proponents, *answer.opponents))
    assert sum(one.signed for one in use) == pytest.approx(signed, rel=1e-4)
    assert {one.word for one in use if one.biased} <= biased


# The page and the command.


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bias")
    return tiny.write_csv(folder / "train.csv", planted(500)), tiny.write_csv(folder / "dev.csv", planted(200, 1))


def called(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_command_reports_and_writes_the_weights(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    data, heldout = files
    if suffix != ".csv":
        frame = pd.read_csv(data)
        data = tmp_path / f"train{suffix}"
        frame.to_json(data, orient="records", lines=True) if suffix == ".jsonl" else frame.to_parquet(data)
    out, page = tmp_path / f"weighed{suffix}", tmp_path / "bias.html"
    code, said, _ = called(capsys, "bias", data, "--heldout", heldout, "--out", out, "--report", page, "--json", "-q")
    assert code == 0
    content = json.loads(said)
    found = lexical_bias(str(data), heldout=str(heldout), quiet=True)
    assert content == json.loads(found.report.to_json())
    before, weighed, held = content["summaries"][:3]
    assert before["flagged"] > 2 * before["shuffled"]["most"]
    assert weighed["flagged"] <= 0.1 * before["flagged"]
    assert held["flagged"] > held["shuffled"]["most"]
    again = read(out, columns=Columns(weight="weight"))
    np.testing.assert_allclose(again.weights, found.weights, rtol=1e-12)
    assert again.texts == read(data).texts
    assert "w1" in page.read_text(encoding="utf-8")
    code, _, err = called(capsys, "bias", data, "--out", out)
    assert (code, "exists already" in err) == (2, True)
    code, _, err = called(capsys, "bias", out, "--out", tmp_path / f"more{suffix}")
    assert (code, "has a column 'weight' already" in err) == (2, True)
    code, said, _ = called(capsys, "bias", out, "--weight-column", "weight", "--json", "-q")
    assert json.loads(said)["weights"]["source"] == "column weight"
    assert json.loads(said)["summaries"][1]["flagged"] == weighed["flagged"]


def test_the_command_tests_a_run_and_ranks_words_by_use(
    news: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heldout = tiny.write_csv(tmp_path / "dev.csv", [row | {"id": f"h{place}"} for place, row in enumerate(news.rows)])
    words = ["bias", news.data, news.run, "--heldout", heldout, "--min-count", 8, "--draws", 99]
    words += ["--index", news.index, "--queries", heldout, "-k", 2]
    code, said, err = called(capsys, *words, "--json", "-q")
    assert code == 0, err
    content = json.loads(said)
    assert content["test"]["draws"] == 99
    assert 0.01 <= content["test"]["p"] <= 1
    assert len(content["answers"]) == len(news.rows)
    assert content["use"][0]["use"] >= content["use"][-1]["use"]
    code, said, _ = called(capsys, *words)
    assert code == 0
    for part in ("Words that give the label away", "Against chance", "lean on", "Words by use", "on biased words"):
        assert part in " ".join(said.split())


def test_the_page_as_a_table(files: tuple[Path, Path]) -> None:
    page = lexical_bias(str(files[0]), heldout=str(files[1]), quiet=True).report
    frame = page.to_pandas()
    assert list(frame.columns[:4]) == ["units", "column", "word", "label"]
    assert len(frame) == len(page.rows) + len(page.pairs)
    assert frame["z"].iloc[0] == pytest.approx(frame[frame["units"] == "words"]["z"].abs().max())
    assert {one.label for one in page.evidence} <= {"no", "yes"}
    for one in page.evidence:
        assert one.word in [one.text[start:end].lower() for start, end in split(one.text)]


BAD = {
    "no labels": ([{"text": "a b"}, {"text": "c"}], "has no labels"),
    "some labels": ([{"text": "a", "label": "x"}, {"text": "b", "label": None}, {"text": "b", "label": "y"}],
                    "1 rows of .* have no label"),
    "one label": ([{"text": "a", "label": "x"}] * 3, "has only one label"),
    "values": ([{"text": "a", "label": place / 7} for place in range(9)], "needs classes, not values"),
    "rare": ([{"text": f"a{place}", "label": "xy"[place % 2]} for place in range(9)], "lower --min-count"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, problem = BAD[name]
    with pytest.raises(InputError if name == "rare" else DataError, match=problem):
        lexical_bias(rows, quiet=True)
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, out, err = called(capsys, "bias", path, "-q")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_options_that_do_not_fit_are_refused(
    files: tuple[Path, Path], news: tiny.Tiny, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data, heldout = files
    refused = {
        ("--out", str(tmp_path / "x.txt")): "choose .csv",
        ("--index", str(news.index)): "--index and --queries belong together",
        ("--heldout", str(news.data)): "which the training data does not have",
        ("--words-in", "nope"): "no column 'nope'",
        ("--beta", "inf"): "--beta inf",
    }
    for words, problem in refused.items():
        code, out, err = called(capsys, "bias", data, *words, "-q")
        assert (code, out, problem in err) == (2, "", True), err
    code, _, err = called(capsys, "bias", data, news.run, "-q")
    assert (code, "--heldout FILE" in err) == (2, True)
    code, _, err = called(capsys, "bias", data, news.run, "--heldout", heldout, "-q")
    assert (code, "predicts the classes Business, Sports, World" in err) == (3, True)


def test_write_weighted_keeps_every_value(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    lines = ['{"text": "a  b", "label": 1,  "more": [1.50, {"x": null}]}', '{"label": 0, "text": "c\\u00e9"}']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_weighted(read(path), np.asarray([0.5, 1.5]), tmp_path / "out.jsonl")
    written = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert written == [lines[0][:-1] + ', "weight": 0.5}', lines[1][:-1] + ', "weight": 1.5}']


def test_a_page_without_words_by_use_says_nothing_of_them(files: tuple[Path, Path]) -> None:
    page = lexical_bias(str(files[0]), quiet=True).report
    assert replace(page, use=(), answers=()) == page
    assert "held-out" in " ".join(page.notes)
