"""Words are marked only where the model read them; a hit says where its texts were truncated."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import proponent
import runs
import tiny
from proponent.models.encoding import Encoder
from proponent.types import Example
from proponent.views import Explanation
from proponent.words import within, words

LONG = "the bank fell in the market said the bank of the market on a " * 2 + "treaty treaty treaty bank"
ROWS = [{"id": "long", "text": LONG, "label": "World"}, *runs.ROWS[:8]]


def hit(answer: Explanation, name: str = "long") -> Any:
    return next(one for one in (*answer.proponents, *answer.opponents) if one.id == name)


def places(pairs: Any, side: str) -> list[tuple[int, int]]:
    return [span for pair in pairs for span in getattr(pair, f"{side}_spans")]


def read_to(folder: Path, text: str = LONG, length: int = runs.MAX_LENGTH) -> int:
    tokenizer = proponent.Run.from_pretrained(folder).tokenizer
    return max(end for _, end in tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)[
        "offset_mapping"])  # fmt: skip


def test_no_word_is_marked_beyond_the_cut(bert_run: Path, tmp_path: Path) -> None:
    end = read_to(bert_run)
    assert 0 < end < LONG.rindex("bank")
    answer = proponent.build(bert_run, ROWS, tmp_path / "index", "tracin-we", quiet=True).explain("the bank", k=20)
    found = hit(answer)
    marked = places(found.words, "train")
    assert marked
    assert max(stop for _, stop in marked) <= end
    assert sum(pair.share for pair in found.words) == pytest.approx(found.score, rel=1e-5)
    assert (found.truncated_at, found.truncated_before) == (end, None)
    assert found.reading == f"the model reads the text to character {end} only"
    assert f"to character {end} only" in answer._repr_html_()
    assert json.loads(answer.to_json())["opponents" if found.score < 0 else "proponents"][found.rank - 1][
        "truncated_at"] == end  # fmt: skip
    assert hit(answer, "n1").truncated_at is None


def test_no_word_of_a_question_is_marked_beyond_the_cut(bert_run: Path, tmp_path: Path) -> None:
    answer = proponent.build(bert_run, ROWS, tmp_path / "index", "tracin-we", quiet=True).explain(LONG, k=20)
    end = answer.query.truncated_at
    assert end == read_to(bert_run)
    every = [pair for one in (*answer.proponents, *answer.opponents) for pair in one.words]
    assert max(stop for _, stop in places(every, "query")) <= end


def test_a_tokenizer_that_truncates_on_the_left(bert_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert_run, tmp_path / "run"))
    for path in folder.glob("checkpoint-*/tokenizer_config.json"):
        runs.edit(path, truncation_side="left")
    index = proponent.build(folder, ROWS, tmp_path / "index", "tracin-we", quiet=True)
    assert "tokens beyond the limit were ignored" in " ".join(index.store.manifest.notes)
    answer = index.explain(LONG, k=20)
    found = hit(answer)
    begin = found.truncated_at
    assert begin is not None
    assert begin > 0
    assert found.truncated_before
    assert min(start for start, _ in places(found.words, "train")) >= begin
    assert max(stop for _, stop in places(found.words, "train")) == len(LONG)
    assert answer.query.reading == f"the model reads the text from character {begin} on only"


def test_a_second_text_is_cut_by_itself(pairs: tiny.Tiny, tmp_path: Path) -> None:
    rows = [*pairs.rows, {"id": "long", "text": "the cup", "text_pair": LONG, "label": "same"}]
    index = proponent.build(pairs.run, rows, tmp_path / "index", "tracin-we", quiet=True)
    found = hit(index.explain({"text": "the bank", "text_pair": "a cup"}, k=40))
    assert found.truncated_at is None
    assert 0 < found.pair_truncated_at < len(LONG)
    marked = [span for pair in found.words for span in pair.train_pair_spans or ()]
    assert max(stop for _, stop in marked) <= found.pair_truncated_at


def test_the_target_of_a_language_model(lm_run: Path, tmp_path: Path) -> None:
    rows = [{"id": row["id"], "text": row["text"], "target": row["text"]} for row in runs.ROWS[:4]]
    rows.append({"id": "long", "text": "the bank ", "target": LONG})
    columns = proponent.Columns(label="")
    index = proponent.build(lm_run, rows, tmp_path / "index", "tracin-we", columns=columns, quiet=True)
    found = hit(index.explain("the bank", k=9))
    assert 0 < found.pair_truncated_at < len(LONG)
    assert max(stop for pair in found.words for _, stop in pair.train_pair_spans) <= found.pair_truncated_at


def test_a_control_compares_whole_texts(bert_run: Path, tmp_path: Path) -> None:
    answer = proponent.build(bert_run, ROWS, tmp_path / "index", "bm25", quiet=True).explain("treaty", k=20)
    assert hit(answer).truncated_at is None


def test_a_group_says_how_many_of_its_texts_were_truncated(bert_run: Path, tmp_path: Path) -> None:
    index = proponent.build(bert_run, ROWS, tmp_path / "index", "tracin-we", quiet=True)
    notes = index.explain_group([LONG, "the bank", LONG]).notes
    assert any(note.startswith("2 of 3 texts of the group were truncated") for note in notes)


def test_a_conversation_stops_in_a_turn(lm_run: Path) -> None:
    run = proponent.Run.from_pretrained(lm_run)
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    from proponent.types import Counting

    encoder: Encoder = run.encoder(12, counting=Counting(trl=True, template=template))
    from proponent.data import read

    (row,) = read([{"messages": [{"role": "user", "content": "the bank fell"}, {"role": "assistant", "content": LONG},
                                 {"role": "user", "content": "the end"}]}])  # fmt: skip
    stretches = encoder.stretches(row)
    assert stretches is not None
    assert stretches[0] == (0, len("the bank fell"))
    assert 0 < stretches[1][1] < len(LONG)
    assert stretches[2] == (0, 0)
    assert encoder.stretches(Example("0", 0, "the bank")) is None


def test_places_are_cut_at_the_edges_of_a_stretch() -> None:
    found = within(words(["bank the bank bank"]), [(2, 11)])
    assert {word.text: word.spans[0] for word in found if not word.text.isspace()} == {
        "bank": ((2, 4), (9, 11)),
        "the": ((5, 8),),
    }
