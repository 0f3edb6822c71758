"""Texts of data are hostile: nothing of them may become structure, attribute or hidden character of a page."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from answers import make_labels, make_pair_answer, make_story
from markup import Structure, rewritten
from proponent.views import text_marks
from proponent.views.page import document

PAYLOADS = [
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>", "</svg><script>alert(1)</script>", "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>", "</bdi></mark></details><b>", "<!--", "--><script>", "<![CDATA[<b>]]>",
    '" onmouseover="alert(1)', "' onmouseover='alert(1)", "x onfocus=alert(1) autofocus", '"><img src=x>', "'><b>",
    "`onclick=alert(1)", "javascript:alert(1)", "data:text/html,<script>", "{{ 7*7 }}", "{% include 'x' %}",
    "{{ page.__class__ }}", "{# x #}", "${7*7}", "&lt;script&gt;", "&#60;script&#62;", "&amp;&quot;", "&", "<", ">",
    '"', "<a href=javascript:alert(1)>x</a>", "<iframe srcdoc='<script>'>", "<math><mi xlink:href='x'>",
    "<base href=//x>", "<meta http-equiv=refresh content=0>", "<form><button formaction=x>",
    "<details open ontoggle=alert(1)>",
    "<template><b>", "<noscript><p title='</noscript><img>'>", "<xmp><b></xmp>", "<textarea></textarea>", "<plaintext>",
    "<\x00script>", "<scr\u200bipt>", "\u202e<b>\u2066", "<b\n>", "＜script＞", "\\u003cscript\\u003e",
    "]]>", "%3Cscript%3E",
    "expression(alert(1))", "url(javascript:alert(1))", "\ud800<b>", "<ſcript>", "\u2028<b>",
]  # fmt: skip


def bones(html: str) -> Iterator[tuple[Any, ...]]:
    ghost = 0
    for tag in Structure(html).tags:
        if tag[0] == "span" and ("class", "wh-g") in tag:
            ghost += 1
        elif ghost and tag == ("/span",):
            ghost -= 1
        else:
            yield tag


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_changes_the_structure_of_a_page(payload: str) -> None:
    answer = make_pair_answer()
    small = replace(answer, proponents=answer.proponents[:1], opponents=answer.opponents[:1])
    story = replace(make_story(), answer=small, labels=replace(make_labels(), rows=make_labels().rows[:1]))
    hostile, benign = rewritten(story, payload), rewritten(story, "b" * len(payload))
    # Attributes and their values too: no text of the data stands in an attribute.
    assert list(bones(document(hostile))) == list(bones(document(benign)))
    assert list(bones(hostile._repr_html_())) == list(bones(benign._repr_html_()))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_hostile_text_is_shown_as_it_is(payload: str) -> None:
    labels = replace(make_labels(), notes=(payload,))
    shown = "".join(piece.text for piece in text_marks.pieces(payload))
    assert shown in "".join(Structure(document(labels)).text)


def test_a_hole_in_the_escaping_would_be_found() -> None:
    whole = document(make_labels())
    assert list(bones(whole.replace("Commerce", "<b>Commerce"))) != list(bones(whole))


def test_there_are_enough_payloads_and_every_text_is_replaced() -> None:
    assert len(PAYLOADS) >= 40
    left = io.StringIO(json.dumps(rewritten(make_story(), "#").to_dict()))
    assert not re.search(r"Business|retail|ag-|Commerce|tracin|recorder|bm25", left.read())


@pytest.mark.parametrize("code", [0x00, 0x1B, 0x7F, 0x061C, 0x200B, 0x202E, 0x2066, 0xFE0F, 0xFEFF, 0xE01EF])
def test_invisible_characters_never_reach_a_page(code: int) -> None:
    html = document(rewritten(make_story(), f"a{chr(code)}b"), title=chr(code))
    assert chr(code) not in html
    assert f"⟨U+{code:04X}⟩" in html
