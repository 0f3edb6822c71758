"""Explanations in a terminal; readable without colour: marks are numbered, signs are written out.

Data is passed to rich only as Text objects, never as markup, and every control character as a visible glyph, so that a
training example cannot style or control the terminal.
"""

import math
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from proponent.types import TEMPLATE
from proponent.views.explanation import Explanation, QueryView
from proponent.views.hit import Hit
from proponent.views.overlap import Overlap
from proponent.views.suspects import LabelReport, RankingRecall, Story, Suspect
from proponent.views.tables import table
from proponent.views.text_marks import Mark, Piece, clip, columns, percent, pieces, score_in_words, segments, signed
from proponent.views.turns import TurnView

WIDE = 140
NARROW = 64
LONGEST = 600
LONGEST_IN_TABLE = 240
HELPED = "bold blue underline"
HURT = "italic dark_orange underline"


def print_answer(answer: Explanation, console: Console) -> None:
    """Print one explanation: the query, proponents, opponents, the baselines and the caveat."""
    console.print(_say(answer.headline, "bold"))
    console.print(_query(answer))
    helped = _side("Helped", answer.helping, answer.proponents)
    hurt = _side("Hurt", answer.hurting, answer.opponents)
    if console.width >= WIDE and answer.proponents and answer.opponents:
        both = Table.grid(padding=(0, 2), expand=True)
        both.add_column(ratio=1)
        both.add_column(ratio=1)
        both.add_row(helped, hurt)
        console.print(both)
    else:
        console.print(helped)
        console.print(hurt)
    if answer.baselines:
        console.print(_baselines(answer))
    console.print(_foot(answer))


def print_labels(report: LabelReport, console: Console, limit: int | None = 20) -> None:
    """Print suspected label errors, most suspect first."""
    console.print(_say(report.headline, "bold"))
    console.print(
        _join(f"{report.flagged:,} flagged of {report.n_examples:,} training examples; ordered by ", report.ranking)
    )
    shown = report.rows[:limit]
    console.print(_suspects(shown))
    if len(shown) < report.n_examples:
        left = f"showing the {len(shown):,} most suspect of {report.n_examples:,}"
        console.print(left, style="dim", highlight=False)
    for note in report.notes:
        console.print(_say(note, "dim"))


def print_story(story: Story, console: Console) -> None:
    """Print the story of the demo: the steps, the explained prediction, the errors found."""
    console.print(_say(story.title, "bold"))
    for sentence in story.lead:
        console.print(_say(sentence))
    for name, value in story.facts:
        console.print(_join(f"  {_line(name)}: ", value))
    console.print()
    print_answer(story.answer, console)
    if story.recall:
        console.print()
        console.print(_recall(story.recall))
    if story.labels is not None:
        print_labels(story.labels, console, limit=5)


def _visible(parts: Iterable[Piece], style: str = "") -> Text:
    text = Text(overflow="fold")
    for piece in parts:
        # A tab has no fixed width, so a table that contains one would not be aligned.
        text.append(piece.text.replace("\t", "  "), style=f"{style} dim".strip() if piece.name else style)
    return text


def _say(text: str, style: str = "") -> Text:
    return _visible(pieces(text), style)


def _line(text: str) -> str:
    return clip(text, 60)


def _join(before: str, data: str, style: str = "") -> Text:
    return Text(before, style=style).append_text(_say(data))


def _marked(text: str, marks: Sequence[Mark], longest: int = LONGEST) -> Text:
    shown = Text(overflow="fold")
    for segment in segments(text[:longest], marks):
        if segment.share is None:
            shown.append_text(_visible(segment.pieces))
            continue
        shown.append_text(_visible(segment.pieces, HELPED if segment.share >= 0 else HURT))
        if segment.first:
            shown.append(f"[{signed(segment.share)}]", style="dim")
    if len(text) > longest:
        shown.append(f" … {len(text) - longest:,} more characters", style="dim")
    return shown


def _query(answer: Explanation) -> RenderableType:
    query = answer.query
    lines: list[RenderableType] = [_marked(query.text, ())] if query.turns is None else _turns(query.turns, ())
    if query.text_pair is not None:
        lines.append(_join("second text: ", query.text_pair))
    if query.target is not None:
        lines.append(_join("target: ", query.target))
    if query.reading is not None:
        lines.append(Text(query.reading, style="dim"))
    if query.predicted is not None:
        lines.append(_predicted(query))
    return Padding(Group(*lines), (0, 0, 1, 2))


def _turns(turns: Sequence[TurnView], marks: Sequence[Sequence[Mark]]) -> list[RenderableType]:
    """Every turn under its role; a system prompt in one line."""
    lines: list[RenderableType] = []
    for number, turn in enumerate(turns):
        head = _say(f"{_line(turn.head)}: ", "dim")
        folded = turn.role in {"system", "developer"}
        own = marks[number] if marks else ()
        lines.append(head.append_text(_say(_line(turn.text)) if folded else _marked(turn.text, own)))
    return lines


def _predicted(query: QueryView) -> Text:
    text = _join("model predicts ", query.predicted or "")
    for name, probability in query.likeliest:
        text.append("  ").append_text(_say(name, "dim")).append(f" {percent(probability)}", style="dim")
    if query.other_classes:
        plural = "class" if query.other_classes == 1 else "classes"
        text.append(f"  and {query.other_classes:,} less likely {plural}", style="dim")
    return text


def _side(title: str, meaning: str, hits: Sequence[Hit]) -> RenderableType:
    head = Text(title, style="bold").append(": ").append_text(_join("pushed the model ", meaning, "dim"))
    total = math.fsum(abs(hit.score) for hit in hits)
    if not hits:
        return Group(head, Text(f"  no training example {title.lower()}", style="dim"))
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(ratio=1)
    for hit in hits:
        grid.add_row(Text(str(hit.rank)), _hit(hit, total))
    return Group(head, grid)


def _hit(hit: Hit, total: float) -> RenderableType:
    style = "bold blue" if hit.score >= 0 else "bold dark_orange"
    head = Text(f"{score_in_words(hit.score)} ({percent(abs(hit.score), total)})", style=style, overflow="fold")
    if hit.label is not None:
        head.append("  ", style="not bold").append_text(_say(hit.label, "default not bold"))
    if hit.mislabelled:
        head.append_text(Text(" but model predicts ", style="default not bold"))
        head.append_text(_say(hit.predicted or "", "default not bold"))
    identity = _identity(hit)
    said = [_marked(hit.text, hit.marks)] if hit.turns is None else _turns(hit.turns, hit.turn_marks)
    lines: list[RenderableType] = [head, *said]
    if columns(head.plain + identity) <= NARROW:
        head.append(f"  {identity}", style="default not bold dim")
    else:  # a long id would break somewhere in the middle
        lines.insert(1, Text(identity, style="dim", overflow="fold"))
    if hit.second is not None:
        lines.append(_join("+ ", "", "dim").append_text(_marked(hit.second, hit.second_marks)))
    if hit.reading is not None:
        lines.append(Text(hit.reading, style="dim"))
    if hit.overlap is not None:
        lines.append(_overlap(hit.overlap))
    if hit.words:
        lines.append(_words(hit))
    if hit.by_run:
        parts = ", ".join(signed(part) for part in hit.by_run)
        lines.append(Text(f"by run: {parts}; same sign in {hit.agreeing_runs} of {len(hit.by_run)} runs", style="dim"))
    elif len(hit.by_checkpoint) > 1:
        parts = ", ".join(signed(part) for part in hit.by_checkpoint)
        lines.append(Text(f"by checkpoint: {parts}", style="dim"))
    return Padding(Group(*lines), (0, 0, 1, 0))


def _identity(one: Hit | Suspect) -> str:
    return f"row {one.row}" if one.id == str(one.row) else f"id {_line(one.id)} · row {one.row}"


def _overlap(one: Overlap) -> Text:
    """The longest verbatim run, and how much of the answer it is."""
    text = Text(f"verbatim: {one.words:,} of {one.of:,} words ({percent(one.share)})", style="dim", overflow="fold")
    return text.append(": ").append_text(_say(_line(one.text))) if one.words else text


def _words(hit: Hit) -> Text:
    text = Text(style="dim", overflow="fold")
    for pair in hit.shown_words:
        same = pair.query_word.casefold() in {"", pair.train_word.casefold()}
        name = pair.names[1] if same and pair.query_side in {None, pair.train_side} else " → ".join(pair.names)
        text.append(", " if text else "words: ").append_text(_say(_line(name)))
        piece = "" if pair.piece is None else f" (shared piece: {_line(pair.piece)})"
        text.append(f"{piece} {signed(pair.share)} ({percent(pair.share, hit.words_size)})")
    if hit.more_words:
        begin = ", and " if text else "words: "
        hidden = f", {hit.hidden_words:,} of them function words and punctuation" if hit.hidden_words else ""
        pairs = "pair" if hit.more_words == 1 else "pairs"
        text.append(f"{begin}{hit.more_words:,} more {pairs} of words{hidden}: {signed(hit.more_share)}")
    for name, share in (("whole sentence (special tokens)", hit.whole_share), (TEMPLATE, hit.template_share)):
        if share:
            text.append(f"{'; ' if text else ''}{name} {signed(share)} ({percent(share, hit.score)} of the score)")
    return text


def _baselines(answer: Explanation) -> RenderableType:
    """One line per baseline: its overlap with our ranking, and its first entries."""
    head = Text("Compared with baselines (overlap with the top proponents)", style="bold")
    grid = Table.grid(padding=(0, 2))
    for wide in (False, False, True):
        grid.add_column(no_wrap=not wide, overflow="fold")
    for name, hits in answer.baselines.items():
        first = [f"{_line(hit.id)} ✓" if hit.id in answer.proponent_ids else _line(hit.id) for hit in hits[:3]]
        overlap = f"{answer.overlap(name)} of {len(answer.proponents)}"
        grid.add_row(Text(clip(name, 16)), Text(overlap), Text("first: " + ", ".join(first)))
    return Padding(Group(head, grid), (0, 0, 1, 0))


def _foot(answer: Explanation) -> RenderableType:
    rules = list(dict.fromkeys(c.rule for c in answer.checkpoints))
    rates = ", ".join(
        f"step {c.step:,}{f' of run {c.run}' if c.run else ''} (lr {c.learning_rate:.3g}"
        + (")" if len(rules) == 1 else f", {_line(c.rule)})")
        for c in answer.checkpoints
    )
    rates += f"; learning rates: {_line(rules[0])}" if len(rules) == 1 else ""
    told = "percentages: of the scores listed on a side; of a pair of words, of all pairs of its example"
    if answer.content_only:
        told += "; function words and punctuation are hidden"
    path = "" if answer.embedding_path is None else f", gradient path {answer.embedding_path}"
    path += "" if answer.words_are is None else f", words by {_line(answer.words_are)}"
    method = f"method {_line(answer.method)}{path}, {answer.loss} loss; checkpoints: {rates or 'none'}"
    return Group(
        *(_say(note) for note in answer.notes), _say(answer.caveat), Text(told, style="dim"), Text(method, style="dim")
    )


def _suspects(rows: Sequence[Suspect]) -> Table:
    made = table("", "label score", "given", "suggested", "text")
    made.columns[0].no_wrap = True
    for row in rows:
        text = _marked(row.text, (), LONGEST_IN_TABLE).append(f"\n{_identity(row)}", style="dim")
        score = Text(f"{row.label_score:.3g}" + ("\nlikely wrong" if row.is_label_issue else ""))
        suggested = _say(_line(row.suggested_label)) if row.suggested_label is not None else Text("-", style="dim")
        made.add_row(str(row.rank), score, _say(_line(row.given_label)), suggested, text)
    return made


def _recall(rankings: Sequence[RankingRecall]) -> RenderableType:
    made = table("ranking", "found", "")
    made.columns[0].no_wrap = True
    for ranking in rankings:
        made.add_row(_say(_line(ranking.name)), percent(ranking.share_in_first_tenth), _say(ranking.note, "dim"))
    title = "Planted label errors in the first tenth of each ranking (by chance 10%)"
    return Group(Text(title, style="bold"), made)
