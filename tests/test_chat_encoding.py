"""How conversations become tokens: places of texts, what counts, and rows that cannot be read."""

import datetime
from typing import Any

import numpy as np
import pytest

import chat
from proponent.data import read
from proponent.errors import InputError, RunError
from proponent.models import CausalLM, Encoded, Encoder, MaskedLM
from proponent.models.chat_rows import BORDER, SEARCHED
from proponent.types import TEMPLATE, Conversation, Counting, Example, Message, Preference, Tokens
from proponent.words import words_of


def encoder(written: str | None = chat.MARKED, *, most: int = 400, tokenizer: Any = None, **counting: Any) -> Encoder:
    own = chat.tokenizer(written, most=most) if tokenizer is None else tokenizer
    return Encoder(own, CausalLM(), most, own.pad_token_id, counting=Counting(trl=True, **counting))


def row(content: Any) -> Example:
    return Example("a", 0, content=content)


def said(*messages: dict[str, Any], prompt: int | None = None) -> Example:
    return row(Conversation(tuple(map(Message.of, messages)), prompt))


def one(made: Encoder, example: Example, **how: Any) -> Encoded:
    (found,) = made.encode([example], **how)
    return found


def spelled(made: Encoder, example: Example) -> list[tuple[str, str]]:
    """Every token with its word."""
    found, known = one(made, example), words_of(example)
    names = [known[place].text if place >= 0 else "" for place in found.words.tolist()]
    return [(made.tokenizer.decode([token]), name) for token, name in zip(found.ids.tolist(), names, strict=True)]


# ---- words ----


@pytest.mark.parametrize("number", range(20))
@pytest.mark.parametrize("template", [chat.MARKED, chat.UNMARKED])
def test_every_token_belongs_to_its_text_or_to_the_template(number: int, template: str) -> None:
    made, example = encoder(template), read([{"messages": chat.DIALOGUES[number]}])[0]
    found = one(made, example)
    assert SEARCHED not in found.remarks
    known = words_of(example)
    assert known[-1].text == TEMPLATE
    assert found.words.max(initial=0) <= len(known) - 1
    (aligned,) = made._aligned_all([example], asked=False)
    for part, text in enumerate(example.parts):
        spans = aligned.offsets[aligned.parts == part]
        covered = np.zeros(len(text), dtype=np.bool_)
        for start, stop in spans.tolist():
            covered[start:stop] = True
        assert all(on or character.isspace() for on, character in zip(covered.tolist(), text, strict=True))


def test_markup_is_one_word_and_a_text_that_looks_like_it_is_not() -> None:
    example = said(chat.user("assistant user"), chat.assistant("user"))
    found = spelled(encoder(), example)
    assert [name for text, name in found if "im_" in text] == [TEMPLATE] * 4
    assert "".join(text for text, name in found if name not in {TEMPLATE, ""}).split() == ["assistant", "useruser"]


def test_reasoning_and_tool_calls_are_texts_too() -> None:
    example = read(chat.WITH_TOOLS)[1]
    names = {name for _, name in spelled(encoder(), example)}
    assert {"weather", "Ulm", "süd", "sunny", "tool"} <= names
    assert SEARCHED not in one(encoder(), example).remarks


def test_a_template_that_reads_its_contents_is_searched_and_said() -> None:
    template = chat.MARKED.replace("message.content | trim", "(message.content | replace('heron', 'bird')) | trim")
    odd = template.replace("{%- for message in messages %}", "{%- if 'long' in messages[0].content %}LONG{% endif %}"
                           "{%- for message in messages %}", 1)  # fmt: skip
    example = said(chat.user("a long river"), chat.assistant("yes"))
    found = one(encoder(odd), example)
    assert found.remarks == (SEARCHED,)
    assert {"long", "river", "yes"} <= {name for _, name in spelled(encoder(odd), example)}


def test_a_text_that_stands_twice_is_found_at_its_own_place() -> None:
    made, example = encoder(), said(chat.user("river"), chat.assistant("river"))
    (aligned,) = made._aligned_all([example], asked=False)
    first, second = (np.flatnonzero(aligned.parts == part) for part in (0, 1))
    assert first.max() < second.min()


# ---- what counts ----


def counted(made: Encoder, example: Example, **how: Any) -> str:
    found = one(made, example, **how)
    return str(made.tokenizer.decode(found.ids[found.counted]))


def test_what_counts_follows_the_rules() -> None:
    turns = [chat.user("Hi"), chat.assistant("Hello."), chat.user("Why?"), chat.assistant("Because.")]
    assert counted(encoder(assistant_only=True), said(*turns)) == "Hello.<|im_end|>Because.<|im_end|>"
    assert counted(encoder(), said(*turns, prompt=3)) == "Because.<|im_end|>\n"
    assert counted(encoder(completion_only=False), said(*turns, prompt=3)).startswith("user\nHi")
    assert counted(encoder(completion_only=False), said(*turns, prompt=3), asked=True) == "Because.<|im_end|>\n"
    asked = counted(encoder(assistant_only=True), said(*turns, prompt=3), asked=True)
    assert asked == "Because.<|im_end|>", "of a question the same tokens count as of a row"


def test_counted_spans_are_places_in_the_texts() -> None:
    made = encoder(most=16)
    example = said(chat.user("Hi"), chat.assistant("The river is long and cold; it ends in the sea."), prompt=1)
    none, (span,) = made.counted_spans(example)
    assert none == ()
    assert span[0] == 0
    assert example.parts[1][: span[1]].startswith("The river is")
    assert span[1] < len(example.parts[1])
    assert one(made, example).truncated_at == len("Hi\n") + span[1]


def test_one_begin_token_as_trained() -> None:
    tokenizer = chat.tokenizer(chat.UNMARKED)
    tokenizer.bos_token = "<|im_start|>"
    found = one(encoder(tokenizer=tokenizer), said(chat.user("Hi"), chat.assistant("Hello.")))
    assert (found.ids == tokenizer.bos_token_id).sum() == 1


def test_an_answer_that_merges_with_the_prompt_is_said() -> None:
    made = encoder()
    assert BORDER in one(made, Example("a", 0, "the mas", target="cot is a heron")).remarks
    assert one(made, Example("a", 0, "the mascot", target=" is a heron")).remarks == ()


def test_a_span_counts_alone() -> None:
    content = said(chat.user("Hi"), chat.assistant("The mascot is a silver heron."), prompt=1).content
    assert counted(encoder(), Example("a", 0, content=content, span=(16, 28)), asked=True).strip() == "silver heron"
    with pytest.raises(InputError, match="no token of the span 'heron' counts"):
        one(encoder(most=12), Example("a", 0, content=content, span=(23, 28)), asked=True)


# ---- tokens ----


def test_tokens_get_their_text_and_their_words() -> None:
    made = encoder()
    ids = made.tokenizer("The mascot is a silver heron. 日本")["input_ids"]
    example = made.decoded(row(Tokens(tuple(ids))))
    assert example.text == "The mascot is a silver heron. 日本"
    assert {"mascot", "silver", "heron", "日"} <= {name for _, name in spelled(made, example)}


def test_tokens_that_no_text_gives_still_have_places() -> None:
    made = encoder()
    ids = [token for letter in "heron" for token in made.tokenizer(letter)["input_ids"]]
    assert tuple(ids) != tuple(made.tokenizer("heron")["input_ids"])
    assert {name for _, name in spelled(made, made.decoded(row(Tokens(tuple(ids)))))} == {"heron"}


# ---- rows that cannot be read ----


def test_a_role_that_the_template_refuses_or_leaves_out_is_named() -> None:
    example = said({"role": "critic", "content": "no"}, chat.user("a"), chat.assistant("b"))
    with pytest.raises(InputError, match=r"refuses the messages of the row with id a \(roles must be"):
        one(encoder(chat.UNMARKED), example)
    silent = chat.MARKED.replace("{%- else %}", "{%- elif message.role == 'user' %}", 1)
    with pytest.raises(InputError, match=r"does not know the role 'critic' and leaves out message 0"):
        one(encoder(silent), example)


def test_no_template_is_said() -> None:
    with pytest.raises(RunError, match=r"no chat template, and the row with id a holds messages: .*--chat-template"):
        one(encoder(None), said(chat.user("a"), chat.assistant("b")))


def test_a_template_of_the_training_replaces_the_tokenizers() -> None:
    found = one(encoder(None, template=chat.MARKED), said(chat.user("a"), chat.assistant("b")))
    assert found.ids.tolist() == one(encoder(), said(chat.user("a"), chat.assistant("b"))).ids.tolist()


DATED = "{{ 'Today: ' + (date_string or strftime_now('%d %b %Y')) + '\\n' }}" + chat.MARKED


def test_a_template_that_prints_todays_date_is_refused_unless_the_day_is_known() -> None:
    example = said(chat.user("a"), chat.assistant("b"))
    with pytest.raises(InputError, match=r"prints today's date.*chat_template_kwargs"):
        one(encoder(DATED), example)
    day = datetime.date(2024, 7, 26)
    noted = encoder(DATED, date=day.isoformat())
    assert "Today: 26 Jul 2024" in noted.tokenizer.decode(one(noted, example).ids)
    given = row(Conversation(tuple(map(Message.of, [chat.user("a"), chat.assistant("b")])), None, None,
                             {"date_string": "26 Jul 2024"}))  # fmt: skip
    assert one(encoder(DATED), given).ids.tolist() == one(noted, example).ids.tolist()


def test_assistant_only_needs_marks() -> None:
    with pytest.raises(InputError, match=r"does not mark them \(\{% generation %\}\)"):
        one(encoder(chat.UNMARKED, assistant_only=True), said(chat.user("a"), chat.assistant("b")))


def test_tokens_beyond_the_vocabulary_are_named() -> None:
    made = encoder()
    with pytest.raises(
        InputError, match=rf"holds the token 99999, and the vocabulary of this run has {len(made.tokenizer)}"
    ):
        one(made, row(Tokens((1, 99999))))


@pytest.mark.parametrize("answers", [("b", None), (None, "b")])
def test_a_judged_answer_is_refused_with_the_ways_out(answers: tuple[str | None, str | None]) -> None:
    with pytest.raises(InputError, match=r"\(KTO\).*\(chosen, rejected\).*leave the label out \(--label-column ''\)"):
        one(encoder(), row(Preference("a", *answers)))


def test_preferences_and_other_models_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="holds a preference"):
        one(encoder(), row(Preference("a", "b", "c")))
    own = chat.tokenizer()
    masked = Encoder(own, MaskedLM(), 64, own.pad_token_id)
    with pytest.raises(InputError, match="a masked-lm model reads texts"):
        masked.encode([said(chat.user("a"), chat.assistant("b"))])
