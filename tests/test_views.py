"""Pages: their contract, their JSON, their size, and what they do with hostile texts."""

import ast
import base64
import errno
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from jinja2 import meta, nodes

import proponent
from answers import (
    make_action,
    make_answer,
    make_bias,
    make_comparison,
    make_counted_answer,
    make_labels,
    make_pair_answer,
    make_poison,
    make_story,
    make_text_answer,
)
from markup import Structure, rewritten
from proponent.errors import DataError, DiskFullError, InputError, MissingExtraError
from proponent.views import (
    acting,
    axes,
    bias,
    comparison,
    counted_scores,
    distribution,
    error_report,
    evaluation,
    example_map,
    explanation,
    facts,
    frames,
    histogram,
    hit,
    hits,
    loss_report,
    overlap,
    page,
    plot,
    poison,
    prediction_report,
    reports,
    row_suspects,
    scatter,
    suspects,
    text_marks,
    word_pair,
)
from proponent.views.comparison import print_comparison
from proponent.views.evaluation import Figure, MethodFigures
from proponent.views.explanation import Explanation
from proponent.views.page import Limits, Page, css, document, environment, fragment
from proponent.views.reports import Report
from proponent.views.text_marks import columns

NUMBERED = {"#answer-{{ loop.index }}", "answer-{{ loop.index }}", "hit-{{ side }}{{ hit.rank }}"}
DRAWN = {f"{{{{ id }}}}-{part}" for part in "td"} | {"{{ bar.of.url }}", "{{ one.url }}", "{{ url }}"}
"""Names of the parts of a plot, and the addresses that pages of the explorer put into it."""
REPORT = Report(title="Three answers", answers=(make_answer(), make_pair_answer(), make_text_answer()), index="news")
PAGES: list[Page] = [
    make_answer(),
    make_pair_answer(),
    make_text_answer(),
    make_labels(),
    make_story(),
    REPORT,
    make_bias(),
    make_action(),
    make_poison(),
    make_comparison(),
]
MODULES = (
    *(acting, bias, comparison, explanation, evaluation, frames, page, plot, poison, reports),
    *(axes, counted_scores, distribution, example_map, histogram, scatter),
    *(row_suspects, text_marks, suspects, hit, hits, word_pair, overlap, facts, error_report, prediction_report),
    loss_report,
)
TEMPLATES = sorted(path.name for path in page.TEMPLATES.glob("*.j2"))
SOURCES = Path(page.__file__).parent


# The contract.


def undocumented(module: object) -> list[str]:
    found = [kind for kind in vars(module).values() if isinstance(kind, type) and is_dataclass(kind)]
    return [f"{kind.__name__}.{name}" for kind in found for name in without_help(kind)]


def without_help(kind: type) -> list[str]:
    hints = get_type_hints(kind, include_extras=True)
    return [item.name for item in fields(kind) if not any(getattr(hints[item.name], "__metadata__", ()))]


def test_every_field_of_a_page_has_a_help_text() -> None:
    assert undocumented(explanation) == undocumented(suspects) == undocumented(evaluation) == undocumented(bias) == []
    assert undocumented(acting) == undocumented(row_suspects) == undocumented(comparison) == undocumented(plot) == []
    assert undocumented(frames) == undocumented(axes) == undocumented(distribution) == undocumented(histogram) == []
    assert undocumented(counted_scores) == without_help(scatter.MapPoint) == []
    assert undocumented(example_map) == without_help(scatter.Scatter) == without_help(scatter.MarkKind) == []
    assert without_help(scatter.MapCell) == without_help(scatter.Highlight) == []
    assert undocumented(reports) == undocumented(prediction_report) == undocumented(loss_report) == []
    assert undocumented(page) == []
    for kind in (text_marks.Piece, text_marks.TextSegment):
        assert all(f"    {item.name}: " in (kind.__doc__ or "") for item in fields(kind))


def test_a_field_without_help_would_be_found() -> None:
    @dataclass
    class Bad:
        rank: int

    assert undocumented(type("module", (), {"Bad": Bad})) == ["Bad.rank"]


def names(source: str) -> set[str]:
    return meta.find_undeclared_variables(environment().parse(source))


def attributes(source: str) -> set[str]:
    return {node.attr for node in environment().parse(source).find_all(nodes.Getattr)}


def promised() -> set[str]:
    kinds = [kind for module in MODULES for kind in vars(module).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if is_dataclass(kind)]
    properties = {
        name for kind in kinds for name, part in vars(kind).items() if isinstance(part, property | cached_property)
    }
    return (
        properties
        | {item.name for kind in kinds for item in fields(kind)}
        | {"template", "overlap", "decision", "example", "filtered", "range_of"}
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_reads_nothing_outside_of_its_contract(name: str) -> None:
    source = (page.TEMPLATES / name).read_text()
    whole = {"pages", "title", "css", "policy"} if name == "page.html.j2" else {"page"}
    assert names(source) <= whole | {"limits", "range", "answer_links", "acts", "told", "report"}
    assert attributes(source) <= promised() | {"index0", "index", "first", "last", "values", "split"}


def test_a_name_outside_of_the_contract_would_be_found() -> None:
    assert not names("{{ answer.helped }}") <= {"page", "limits"}
    assert not attributes("{{ page.secret }}") <= promised()


@pytest.mark.parametrize("shown", PAGES)
def test_every_page_renders_with_strict_names(shown: Page) -> None:
    for limits in (Limits(), Limits(2, 20)):
        assert str(fragment(shown, limits)).startswith('<div class="wh-root')


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_keep_to_safe_html(name: str) -> None:
    plots = name == "plots.html.j2"
    assert unsafe((page.TEMPLATES / name).read_text(), plots, NUMBERED | (DRAWN if plots else set())) == []


def unsafe(source: str, own: bool = False, known: set[str] = NUMBERED) -> list[str]:
    bare = re.sub(r"\{%.*?%\}|\{#.*?#\}", "", re.sub(r"\{\{.*?\}\}", "X", source, flags=re.DOTALL), flags=re.DOTALL)
    tags = re.findall(r"<[a-z][^>]*>", re.sub(r'"[^"]*"', '""', bare))
    # the only addresses: those that the explorer's answer_links make, percent-encoded
    own = own or "answer_links." in source or "#answer-" in source
    tags = [re.sub(r'(?:href|id)=""', "", tag) if own else tag for tag in tags]
    banned = re.findall(r"\|\s*safe|Markup|autoescape|<script|innerHTML", source)
    places = re.findall(r'(?:href|id)="([^"]*)"', source)
    banned += [one for one in places if not one.startswith("{{ answer_links.") and one not in known]
    inside = [re.findall(r"""[\w-]+=(?!")|\s(?:on\w+|style|href|src|id|action)=""", tag) for tag in tags]
    return banned + [part for found in inside for part in found]


@pytest.mark.parametrize(
    "bad", ["{{ x | safe }}", "<p class={{ x }}>", '<a href="{{ x }}">', '<p onclick="x">', '<p style="x">', "<script>"]
)
def test_unsafe_html_would_be_found(bad: str) -> None:
    assert unsafe(bad)


def test_views_import_only_lower_floors_and_jinja2_has_one_door() -> None:
    for path in SOURCES.glob("*.py"):
        found = {
            node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        }
        ours = {name for name in found if name.startswith("proponent")}
        assert all(
            name
            in {"proponent.types", "proponent.errors", "proponent.disk", "proponent.version", "proponent.plain_text"}
            or name.startswith("proponent.views")
            for name in ours
        )
        assert ("jinja2" in found) == (path.name == "page.py")


def test_views_need_no_torch_and_no_pandas() -> None:
    code = "import sys, proponent.views, proponent.views.terminal, proponent.progress; print([m for m in " \
        "('torch', 'transformers', 'pandas') if m in sys.modules])"  # fmt: skip
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# JSON.


def test_the_json_has_the_promised_keys_in_order() -> None:
    content = make_answer().to_dict()
    assert list(content) == ["proponent", "method", "checkpoints", "embedding_path", "loss", "query",
                             "proponents", "opponents", "baselines", "notes", "caveat"]  # fmt: skip
    assert list(content["checkpoints"][0]) == ["step", "learning_rate", "rule", "run"]
    assert list(content["query"]) == ["text", "label", "against", "predicted", "probabilities", "loss", "truncated_at"]
    assert list(content["proponents"][0]) == ["rank", "id", "row", "score", "text", "label", "predicted",
                                          "by_checkpoint", "by_run", "words"]  # fmt: skip
    assert list(content["proponents"][0]["words"][0]) == [
        "query_word",
        "train_word",
        "share",
        "query_spans",
        "train_spans",
    ]
    assert content["proponents"][0]["words"][0]["train_spans"] == [[12, 17]]
    assert list(content["baselines"]["bm25"][0]) == ["id", "row", "score"]


def test_optional_keys_appear_with_a_pair() -> None:
    content = make_pair_answer().to_dict()
    assert list(content["query"])[:4] == ["text", "text_pair", "target", "label"]
    assert list(content["proponents"][0])[4:7] == ["text", "text_pair", "label"]
    assert list(content["opponents"][0])[4:7] == ["text", "target", "label"]
    assert list(content["proponents"][0]["words"][0])[5:] == ["query_pair_spans", "train_pair_spans"]
    assert "predicted" not in make_text_answer().to_dict()["proponents"][0]
    assert make_text_answer().to_dict()["proponents"][0]["label"] is None


@pytest.mark.parametrize("answer", [make_answer(), make_counted_answer(), make_pair_answer(), make_text_answer()])
def test_a_saved_answer_comes_back_whole(answer: Explanation, tmp_path: Path) -> None:
    answer.save(tmp_path / "why.json")
    back = Explanation.from_dict(json.loads((tmp_path / "why.json").read_text(encoding="utf-8")))
    assert back == replace(answer, n_examples=0)
    assert back.to_json() == answer.to_json()


@pytest.mark.parametrize(
    ("change", "where"),
    [({"method": None}, "method"), ({"proponents": [{"rank": 1}]}, "proponents.0"), ({"query": "text"}, "query"),
     ({"proponent": 3}, "version")],
)  # fmt: skip
def test_a_broken_saved_answer_names_the_field(change: dict[str, Any], where: str) -> None:
    with pytest.raises(DataError, match=f"not a saved answer: {where}"):
        Explanation.from_dict(make_answer().to_dict() | change)


def test_a_missing_field_is_named() -> None:
    content = make_answer().to_dict()
    del content["loss"]
    with pytest.raises(DataError, match="loss: Field required"):
        Explanation.from_dict(content)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused_by_name(bad: float) -> None:
    answer = make_answer()
    broken = replace(answer, proponents=(answer.proponents[0], replace(answer.proponents[1], score=bad)))
    with pytest.raises(DataError, match=r"^proponents\[1\]\.score is (nan|inf)"):
        broken.to_json()


def test_other_scripts_stay_readable_and_lone_surrogates_survive(tmp_path: Path) -> None:
    answer = replace(make_answer(), notes=("Größe 日本", "bad \ud83d"))
    assert "Größe 日本" in answer.to_json()
    answer.save(tmp_path / "why.json")
    assert json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))["notes"] == list(answer.notes)
    answer.save(tmp_path / "why.html")
    assert "⟨U+D83D⟩" in (tmp_path / "why.html").read_text(encoding="utf-8")


def test_the_other_pages_make_json_too() -> None:
    assert json.loads(make_labels().to_json())["rows"][0]["suggested_label"] == "World"
    story = json.loads(make_story().to_json())
    assert story["answer"]["proponent"] == "0.1.0"
    assert story["facts"][0] == ["training examples", "7,600"]


# Other faces of an answer.


def test_the_data_frame_has_one_row_per_hit() -> None:
    frame = make_answer().to_pandas()
    assert list(frame.columns) == ["side", "rank", "id", "row", "score", "label", "text", "words"]
    assert list(frame["side"]) == ["helped"] * 5 + ["hurt"] * 4
    assert frame["words"][0].startswith("sales +0.131, retail +0.094")
    assert frame["score"].dtype.kind == "f"


def test_the_data_frame_of_an_action_has_one_row_per_method_and_per_example() -> None:
    page = make_action()
    frame = page.to_pandas()
    first = page.rows[0]
    assert frame["method"].tolist() == [one.method for one in page.rows]
    assert frame["control"].tolist() == [one.control for one in page.rows]
    assert frame["verdict"].tolist() == [one.verdict for one in page.rows]
    for one in first.figures:
        for column, value in ((one.name, one.value), (f"{one.name} low", one.low), (f"{one.name} high", one.high)):
            assert frame[column].dtype.kind == "f"
            np.testing.assert_equal(frame[column][0], np.nan if value is None else value)
    shown = page.evidence_to_pandas()
    rows = [one for some in page.evidence for one in some.rows]
    assert shown["id"].tolist() == [one.id for one in rows]
    assert shown["value"].tolist() == [one.value for one in rows]
    assert list(shown.columns) == ["list", "rank", "id", "label", "value name", "value", "text"]


def test_a_small_number_does_not_look_like_0() -> None:
    shown = [Figure("x", value).text for value in (0.0, 0.00012, -3.14159e-7, 0.001, 0.25)]
    assert shown == ["0.000", "0.00012", "-3.1e-07", "0.001", "0.250"]
    assert Figure("x", 0.0004, -0.0002, 0.5).text == "0.0004 [-0.0002, 0.500]"


def test_a_comparison_shows_verdicts_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    page = make_comparison()
    control = MethodFigures("random", True, page.rows[0].figures)
    assert "best control" not in replace(page, rows=(*page.rows, control)).markdown()
    judged = replace(page.rows[1], verdict="no (random: -0.100)")
    shown = replace(page, rows=(judged, control))
    assert "best control" in shown.markdown()
    print_comparison(shown)
    assert "no (random:" in " ".join(capsys.readouterr().out.split())


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'proponent\[data\]'"):
        make_answer().to_pandas()
    with pytest.raises(MissingExtraError, match=r"pip install 'proponent\[data\]'"):
        make_action().evidence_to_pandas()


def test_saving_where_there_is_no_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        make_answer().save(tmp_path / "none" / "why.html")


def test_a_full_disk_is_its_own_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(opened: int, data: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "why.html").write_text("the old page", encoding="utf-8")
    monkeypatch.setattr("proponent.disk.write", full)
    with pytest.raises(DiskFullError, match="no space left"):
        make_answer().save(tmp_path / "why.html")
    assert [(one.name, one.read_text(encoding="utf-8")) for one in tmp_path.iterdir()] == [("why.html", "the old page")]


@pytest.mark.parametrize("shown", PAGES)
def test_the_plain_repr_fits_100_columns(shown: Page) -> None:
    for one in (shown, rewritten(shown, "日本語\x1b[2J\u202e\n" * 20)):
        lines = repr(one).splitlines()
        assert all(columns(line) <= 100 for line in lines)
        assert len(lines) <= 24
        assert not set("\x1b\u202e") & set(repr(one))


# HTML: one file, calm, complete.


@pytest.mark.parametrize("shown", PAGES)
def test_the_style_policy_allows_this_style_and_nothing_else(shown: Page) -> None:
    html = document(shown)
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    policy = next(dict(tag[1:]) for tag in Structure(html).tags if ("http-equiv", "Content-Security-Policy") in tag)
    assert len(style) == 1
    assert policy["content"].startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert not re.search(r"https?:|//|url\(|@import|<script|<link|<img| style=| src=", html)
    assert all(one.startswith("#answer-") for one in re.findall(r' href="([^"]*)"', html))


def test_the_style_cannot_leak_into_a_host_page() -> None:
    rules = re.sub(r"@[a-z-]+ [^{]*\{", "", str(css()))
    selectors = [one for found in re.findall(r"([^{}]+)\{", rules) for one in found.split(",")]
    assert len(selectors) > 80
    assert [one for one in selectors if ".wh-" not in one and '"wh-' not in one] == []
    assert "<" not in css()


@pytest.mark.parametrize("shown", PAGES)
def test_every_mark_says_its_sign_in_words(shown: Page) -> None:
    found = Structure(document(shown)).marks
    assert all(re.search(r" (helped \+|hurt -|no effect 0)\S*$", mark) for mark in found)
    assert bool(found) == (not isinstance(shown, suspects.LabelReport | bias.BiasReport | evaluation.EvaluationReport))


def test_the_answer_tells_what_it_knows() -> None:
    text = " ".join(" ".join(Structure(document(make_pair_answer())).text).split())
    for part in ("Why Business and not World?", "score +0.412", "score -0.305", "but model predicts", "53%", "ag-1042",
                 "row 1042", "overlap 2 of 5", "same sign at 2 of 3 checkpoints", "and 2 more", "not proof of cause",
                 "gradient path exact", "recorder", "left out", "reads the text to character 60 only",
                 "rather than World", "7,600 training examples"):  # fmt: skip
        assert part in text
    assert 'aria-label="by checkpoint: step 200 helped +0.206; step 400' in document(make_pair_answer())


def test_long_texts_are_folded_but_whole() -> None:
    answer = make_answer()
    text = "".join(f"word{at} " for at in range(400))
    html = document(replace(answer, proponents=(replace(answer.proponents[0], text=text),)))
    assert f"all {len(text):,} characters" in html
    assert "word399" in html


def test_several_pages_make_one_document() -> None:
    html = document(make_answer(), make_labels(), title="Two")
    assert "<title>Two · proponent</title>" in html
    assert html.count("<h1>") == 2
    with pytest.raises(InputError, match="nothing to show"):
        document()


def make_large(hits: int, words: int, length: int = 7) -> Explanation:
    answer = make_answer()
    text = " ".join(f"{at:0{length}d}" for at in range(words))
    step = length + 1
    pairs = tuple(
        replace(answer.proponents[0].words[0], share=0.01 * (at + 1), query_word=f"{at:0{length}d}",
                train_word=f"{at:0{length}d}", train_spans=((at * step, at * step + length),))
        for at in range(words)
    )  # fmt: skip
    half = tuple(
        replace(answer.proponents[0], rank=at + 1, id=str(at), row=at, text=text, words=pairs)
        for at in range(hits // 2)
    )
    return replace(answer, proponents=half, opponents=half)


def test_a_thousand_examples_fit_5_megabytes() -> None:
    assert len(document(make_large(1000, 60)).encode()) <= 5_000_000


@pytest.mark.parametrize(
    "shown",
    [make_large(60, 60), make_large(20, 4000), replace(make_answer(), notes=("é" * 10**6,)),
     replace(make_labels(), rows=make_labels().rows * 500)],
)  # fmt: skip
def test_a_notebook_gets_at_most_200_kilobytes_and_is_told(shown: Page) -> None:
    html = shown._repr_html_()
    assert len(html.encode()) <= 200_000
    assert "<style>" in html
    assert "<script" not in html
    assert re.search(r"Showing \d+ of [\d,]+|more characters in the saved page", html)


def test_a_notebook_does_not_take_prices_for_formulas() -> None:
    answer = make_answer()
    html = replace(answer, proponents=(replace(answer.proponents[0], text="from $5 to $7", words=()),))._repr_html_()
    before, _, after = html.partition('<div class="wh-cell mathjax_ignore tex2jax_ignore">')
    assert before.startswith("<style>")
    assert before.endswith("</style>")
    assert "from $5 to $7" in after


def test_a_page_that_never_fits_falls_back_to_text() -> None:
    answer = make_answer()
    many = {f"{at} <b>" + "\u202e" * 300: answer.baselines["bm25"] for at in range(20)}
    html = replace(answer, baselines=many)._repr_html_()
    assert html.startswith("<pre>Why Business")
    assert len(html.encode()) <= 200_000


def test_a_page_names_the_version_of_the_code_that_made_it() -> None:
    made = {one.name: one for one in fields(Explanation)}["version"]
    assert made.default == proponent.__version__
