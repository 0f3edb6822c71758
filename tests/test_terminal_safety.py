"""No text of a folder, a file or a name controls the terminal, in errors, hints, results and JSON."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from proponent import notices
from proponent.cli import lines

ATTACKS = {
    "OSC 52": "\x1b]52;c;ZXZpbA==\x07", "OSC 0": "\x1b]0;title\x1b\\", "CSI 2J": "\x1b[2J", "C1 CSI": "\x9b2J",
    "C1 OSC": "\x9d0;x\x9c", "DCS": "\x1bP1$r\x1b\\", "backspace": "a\b\b\b", "bell": "\x07", "bidi": "\u202egnp.exe",
    "carriage": "good\rbad",
}  # fmt: skip
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys; a line end and a tab move the cursor only."""


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_a_path_or_a_name_controls_the_terminal(
    tmp_path: Path, said: Callable[..., tuple[int, str, str]], attack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = ATTACKS[attack].replace("/", "")
    folder = tmp_path / name
    folder.mkdir()
    data = folder / f"{name}.csv"
    data.write_text(f"id,text,label\n1,x,{name}\n".replace("\r", ""), encoding="utf-8")
    for words in (("explain", folder, "x"), ("index", folder, data, "--out", tmp_path / "i"), ("info", folder),
                  ("labels", data), ("apply", folder, "--out", folder / "x"), ("check", folder), (name,),
                  ("train", data, "--out", tmp_path / "r"), ("explain", "--" + name), ("serve", folder)):  # fmt: skip
        code, out, err = said(*words)
        assert code != 0
        assert not OBEYED.search(out + err), words
    notices.say_once(f"{folder}: {attack}")
    assert not OBEYED.search(capsys.readouterr().err)


def test_json_on_a_terminal_has_escapes_and_the_same_values(capsys: pytest.CaptureFixture[str]) -> None:
    content = {name + text: [text, {"x": text}] for name, text in ATTACKS.items()} | {"é": "日本\n\t"}
    lines.echo_json(content, ascii_only=False)
    out = capsys.readouterr().out
    assert json.loads(out) == content
    assert not OBEYED.search(out)
    assert "日本" in out
