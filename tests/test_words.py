"""Words of raw texts: splitting tiles, tokens of real tokenizers of every family land in exactly one word."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Encoding,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from proponent.errors import InputError
from proponent.words import Splitting, Word, read, split, words

any_text = st.text(st.characters(), max_size=40)  # every code point, lone surrogates and controls included
interesting = st.text(
    st.sampled_from(
        "aZé_'’.,-! \n\t\r\u3000\u00a0019中文々かなカナーไทยក្ខမြ한العשל\u0301\u0308\ufe0f\u20e3\u200d\u200b\u200c"
    )
    | st.sampled_from("😂👍🏽👩🇩🇪🇫♂❤#*\ufeff\x00\x1f\x85\ud800\udfff"),
    max_size=30,
)
text = any_text | interesting


def surfaces(of: str) -> list[str]:
    return [of[start:end] for start, end in split(of)]


def solid(of: str) -> list[str]:
    return [surface for surface in surfaces(of) if not surface.isspace()]


# --- splitting -------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(text)
def test_segments_tile_the_text(of: str) -> None:
    spans = split(of)
    assert "".join(of[start:end] for start, end in spans) == of
    assert [start for start, _ in spans] == [0, *(end for _, end in spans)][: len(spans)]
    assert all(start < end for start, end in spans)


@settings(max_examples=200, deadline=None)
@given(text)
def test_white_space_is_never_mixed_with_anything_else(of: str) -> None:
    for surface in surfaces(of):
        assert surface.isspace() or not any(character.isspace() for character in surface)


@settings(max_examples=200, deadline=None)
@given(interesting, st.sampled_from("\u0301\u0308\u0e31\u17d2\u093f\ufe0f"))
def test_a_mark_never_splits_from_its_base(of: str, mark: str) -> None:
    inner = {edge for span in split(of + mark) for edge in span} - {len(of) + 1}
    if of and not of[-1].isspace():
        assert len(of) not in inner


@settings(max_examples=200, deadline=None)
@given(text, text)
def test_white_space_separates(left: str, right: str) -> None:
    left, right = left.rstrip(), right.lstrip()
    assert surfaces(f"{left} {right}") == [*surfaces(left), " ", *surfaces(right)]


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ("It isn't John’s", ["It", "isn't", "John’s"]),
        ("rock'n'roll, dogs' 'x'", ["rock'n'roll", ",", "dogs", "'", "'", "x", "'"]),
        ("3.14 1,000.5 2024. a.b 1.x", ["3.14", "1,000.5", "2024", ".", "a", ".", "b", "1", ".", "x"]),
        ("٣٫١٤", ["٣٫١٤"]),
        ("well-known snake_case __init__ covid19", ["well", "-", "known", "snake_case", "__init__", "covid19"]),
        ("wow!!! ?! ... --", ["wow", "!!!", "?", "!", "...", "--"]),
        ("中文字，好", ["中", "文", "字", "，", "好"]),
        ("葛\U000e0100城", ["葛\U000e0100", "城"]),
        ("日本語はカタカナーだよ", ["日", "本", "語", "は", "カタカナー", "だよ"]),
        ("らーめん ﾗｰﾒﾝ が", ["らーめん", "ﾗｰﾒﾝ", "が"]),
        ("สวัสดีครับ ລາວ ខ្មែរ မြန်မာ", ["สวัสดีครับ", "ລາວ", "ខ្មែរ", "မြန်မာ"]),
        ("ไทยabc2024", ["ไทย", "abc2024"]),
        ("한국어 हिन्दी தமிழ்", ["한국어", "हिन्दी", "தமிழ்"]),
        ("שלום צה״ל، مرحبا", ["שלום", "צה״ל", "،", "مرحبا"]),
        ("می‌خواهم", ["می‌خواهم"]),
        ("e\u0301te\u0301 x\u0308y", ["e\u0301te\u0301", "x\u0308y"]),
        ("!!\u0308!", ["!", "!\u0308", "!"]),
        ("col·lecció m²", ["col·lecció", "m²"]),
        ("👍🏽👍", ["👍🏽", "👍"]),
        ("👨‍👩‍👧‍👦❤️‍🔥", ["👨‍👩‍👧‍👦", "❤️‍🔥"]),
        ("🙂‍↔️😂😂", ["🙂‍↔️", "😂", "😂"]),
        ("🇩🇪🇫🇷🇩", ["🇩🇪", "🇫🇷", "🇩"]),
        ("1️⃣2️⃣ 12️⃣ #️⃣ 1,2️⃣", ["1️⃣", "2️⃣", "1", "2️⃣", "#️⃣", "1", ",", "2️⃣"]),
        ("🏴\U000e0067\U000e0062\U000e007f!", ["🏴\U000e0067\U000e0062\U000e007f", "!"]),
        ("a\u200bb\ufeffc\u202ed", ["a", "\u200b", "b", "\ufeff", "c", "\u202e", "d"]),
        ("x\x00y\ud800z\udc00", ["x", "\x00", "y", "\ud800", "z", "\udc00"]),
        ("", []),
    ],
)
def test_words_by_hand(of: str, expected: list[str]) -> None:
    assert solid(of) == expected


def test_white_space_runs_are_segments() -> None:
    assert surfaces("a\n\n b\r\n\u3000c ") == ["a", "\n\n ", "b", "\r\n\u3000", "c", " "]


@pytest.mark.parametrize("unit", ["1", "a1", "1,", "a'", "a\u0301", "!\u0301", "😂\u200d", "1\ufe0f\u20e3", "_", " "])
def test_long_runs_do_not_blow_up(unit: str) -> None:
    assert "".join(surfaces(unit * 20_000)) == unit * 20_000


# --- distinct words --------------------------------------------------------------------------------------------------


def test_words_are_distinct_in_order_of_first_occurrence_over_all_parts() -> None:
    assert words(["the cat, the", "a cat"]) == (
        Word("the", (((0, 3), (9, 12)), ())),
        Word(" ", (((3, 4), (8, 9)), ((1, 2),))),
        Word("cat", (((4, 7),), ((2, 5),))),
        Word(",", (((7, 8),), ())),
        Word("a", ((), ((0, 1),))),
    )


def test_case_and_composition_keep_words_apart() -> None:
    assert [word.text for word in words(["Cat cat \u00e9 e\u0301"])] == ["Cat", " ", "cat", "\u00e9", "e\u0301"]


def test_no_text_no_words() -> None:
    assert words([]) == words([""]) == words(["", ""]) == ()
    nothing = Splitting(["", ""]).assign(np.array([[0, 0], [0, 3]]), np.array([-1, 1]))
    assert nothing.tolist() == [-1, -1]


@settings(max_examples=150, deadline=None)
@given(st.lists(text, max_size=3))
def test_words_cover_every_character_of_every_part_once(parts: list[str]) -> None:
    found = words(parts)
    assert len({word.text for word in found}) == len(found)
    for part, of in enumerate(parts):
        seen = np.zeros(len(of), dtype=int)
        for word in found:
            for start, end in word.spans[part]:
                assert of[start:end] == word.text
                seen[start:end] += 1
        assert (seen == 1).all()


# --- tokens to words -------------------------------------------------------------------------------------------------


def owner_of(parts: Sequence[str], position: dict[str, int], start: int, end: int, part: int) -> int:
    """The rule, one token at a time: strip, then the largest overlap, the first of equals."""
    if part < 0:
        return -1
    of = parts[part]
    start, end = max(0, min(start, len(of))), max(0, min(end, len(of)))
    if start >= end:
        return -1
    blank = of[start:end].isspace()
    while not blank and of[start].isspace():
        start += 1
    while not blank and of[end - 1].isspace():
        end -= 1
    best, owner = 0, -1
    for first, last in split(of):
        overlap = min(end, last) - max(start, first)
        if overlap > best and of[first:last].isspace() == blank:
            best, owner = overlap, position[of[first:last]]
    return owner


def oracle(parts: Sequence[str], offsets: np.ndarray, part_of: np.ndarray) -> list[int]:
    position = {word.text: number for number, word in enumerate(words(parts))}
    return [
        owner_of(parts, position, int(start), int(end), int(part))
        for (start, end), part in zip(offsets, part_of, strict=True)
    ]


@st.composite
def tokens(draw: st.DrawFn) -> tuple[list[str], np.ndarray, np.ndarray]:
    parts = draw(st.lists(text, min_size=1, max_size=2))
    edge = st.integers(-3, 45)
    rows = draw(st.lists(st.tuples(edge, edge, st.integers(-1, len(parts) - 1)), max_size=25))
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return parts, table[:, :2], table[:, 2]


@settings(max_examples=400, deadline=None)
@given(tokens())
def test_assign_equals_the_slow_rule(case: tuple[list[str], np.ndarray, np.ndarray]) -> None:
    parts, offsets, part_of = case
    assert Splitting(parts).assign(offsets, part_of).tolist() == oracle(parts, offsets, part_of)


def texts_of(parts: list[str], offsets: list[tuple[int, int]], part_of: list[int]) -> list[str | None]:
    splitting = read(parts)
    owners = splitting.assign(np.array(offsets), np.array(part_of))
    return [None if owner < 0 else splitting.words[owner].text for owner in owners]


def test_spaces_around_a_token_do_not_count() -> None:
    assert texts_of(["the cat  sat"], [(0, 3), (3, 7), (7, 12), (3, 8)], [0] * 4) == ["the", "cat", "sat", "cat"]


def test_white_space_tokens_go_to_their_white_space() -> None:
    assert texts_of(["a\n\nb c"], [(1, 3), (2, 3), (4, 5)], [0] * 3) == ["\n\n", "\n\n", " "]


def test_largest_overlap_wins_and_the_first_of_equals() -> None:
    assert texts_of(["ab-cde"], [(0, 6), (1, 3), (1, 5), (2, 4)], [0] * 4) == ["cde", "ab", "cde", "-"]


def test_a_blank_is_no_candidate_however_long() -> None:
    assert texts_of(["a        b"], [(0, 10)], [0]) == ["a"]


def test_byte_tokens_of_one_character_share_its_word() -> None:
    assert texts_of(["x 中y"], [(1, 3), (2, 3), (2, 3)], [0] * 3) == ["中"] * 3


def test_special_and_empty_tokens_have_no_word() -> None:
    assert texts_of(["ab", "cd"], [(0, 0), (0, 2), (1, 1), (0, 2), (9, 12)], [-1, -1, 0, 1, 0]) == [
        *(None, None, None),
        *("cd", None),
    ]


def test_offsets_beyond_the_text_are_clamped() -> None:
    assert texts_of(["ab cd"], [(3, 99), (-7, 1), (50, 60), (4, 2)], [0] * 4) == ["cd", "ab", None, None]


def test_pairs_do_not_leak_into_each_other() -> None:
    parts = ["x ", " y"]
    assert texts_of(parts, [(1, 2), (0, 1), (0, 2), (0, 2)], [0, 1, 0, 1]) == [" ", " ", "x", "y"]


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="part 1"):
        Splitting(["a"]).assign(np.array([[0, 1]]), np.array([1]))
    with pytest.raises(InputError, match="part -2"):
        Splitting(["a"]).assign(np.array([[0, 1]]), np.array([-2]))


def test_no_tokens() -> None:
    assert Splitting(["a b"]).assign(np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int64)).shape == (0,)


# --- real tokenizers, one per family ---------------------------------------------------------------------------------

LINES = [
    "Retail sales slid in August, but it isn't the end: 3.14 or 1,000 shops don't agree!",
    "The quick brown fox jumps over the lazy dog. snake_case and well-known words\n\n\tindented again",
    "日本語のテキスト、中文字符。한국어 문장 Привет мир שלום עולם مرحبا بالعالم สวัสดีครับ नमस्ते",
    "café naïve e\u0301te\u0301 👍🏽 👨‍👩‍👧 🇩🇪 😂😂 ﬁne ½ ²",
]
SPECIALS = ["[UNK]", "[CLS]", "[SEP]"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA3 = Regex(r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+")


def trained(
    model: models.Model,
    pre: pre_tokenizers.PreTokenizer | None = None,
    normalizer: normalizers.Normalizer | None = None,
    size: int = 300,
    **options: object,
) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer_of = {
        models.BPE: trainers.BpeTrainer,
        models.WordPiece: trainers.WordPieceTrainer,
        models.WordLevel: trainers.WordLevelTrainer,
        models.Unigram: trainers.UnigramTrainer,
    }[type(model)]
    trainer = trainer_of(vocab_size=size, special_tokens=SPECIALS, show_progress=False, **options)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def with_template(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def byte_level(trim: bool, **options: bool) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = trained(models.BPE(), pre_tokenizers.ByteLevel(**options), size=400, initial_alphabet=alphabet)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    return tokenizer


def split_then_bytes() -> Tokenizer:
    pre = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(LLAMA3, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer = trained(models.BPE(), pre, size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def byte_fallback(pre: pre_tokenizers.PreTokenizer | None, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    vocabulary = {
        piece: number for number, piece in enumerate([*SPECIALS, *BYTES, "▁", *"abcdefghijklmnop", "▁a", "ab", "▁ab"])
    }
    merges = [("▁", "a"), ("a", "b"), ("▁", "ab")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="[UNK]", byte_fallback=True, fuse_unk=True))
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


def unigram_bytes() -> Tokenizer:
    pieces = [*SPECIALS, *BYTES, "▁", *"abcdefgh", "▁th", "中文"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(len(piece))) for piece in pieces], 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def added_tokens() -> Tokenizer:
    tokenizer = trained(models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer())
    tokenizer.add_tokens([AddedToken("ab", lstrip=True, rstrip=True), AddedToken("中文", normalized=False)])
    return with_template(tokenizer)


def unigram(pre: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    return with_template(trained(models.Unigram(), pre, normalizer, unk_token="[UNK]"))


def prepended() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "bert-wordpiece": lambda: with_template(
        trained(models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer())
    ),
    "wordpiece-added-tokens": added_tokens,
    "gpt2-bytelevel": lambda: byte_level(False, add_prefix_space=False),
    "roberta-bytelevel-trimmed": lambda: byte_level(True, add_prefix_space=True),
    "bytelevel-whole-text": lambda: byte_level(False, add_prefix_space=False, use_regex=False),
    "llama3-split-bytelevel": split_then_bytes,
    "llama2-bpe-byte-fallback": lambda: byte_fallback(None, prepended()),
    "mistral-metaspace-byte-fallback": lambda: byte_fallback(pre_tokenizers.Metaspace(prepend_scheme="first"), None),
    "gemma-replace-byte-fallback": lambda: byte_fallback(
        pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", "▁")
    ),
    "unigram-byte-fallback": unigram_bytes,
    "xlmr-unigram-metaspace": lambda: unigram(pre_tokenizers.Metaspace(), normalizers.NFKC()),
    "deberta-unigram-punctuation": lambda: unigram(
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace()])
    ),
    "albert-unigram-nfkd": lambda: unigram(
        pre_tokenizers.Metaspace(),
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]),
    ),
    "bpe-metaspace-unknown": lambda: trained(models.BPE(unk_token="[UNK]"), pre_tokenizers.Metaspace()),
    "clip-bpe-suffix": lambda: trained(
        models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"),
        pre_tokenizers.Whitespace(),
        normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]),
        end_of_word_suffix="</w>",
    ),
    "wordlevel-whitespace": lambda: trained(models.WordLevel(unk_token="[UNK]"), pre_tokenizers.WhitespaceSplit()),
    "char-level": lambda: trained(
        models.WordLevel(unk_token="[UNK]"), pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    ),
    "unigram-scripts-digits": lambda: unigram(
        pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.Digits(individual_digits=True)])
    ),
}

RANGES = [(0x20, 0x7E)] * 4 + [(0xA0, 0x24F), (0x300, 0x36F), (0x400, 0x4FF), (0x590, 0x6FF), (0x900, 0xDFF)]
RANGES += [(0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2000, 0x206F), (0x20D0, 0x214F), (0x3000, 0x30FF)]
RANGES += [(0x4E00, 0x4FFF), (0xAC00, 0xADFF), (0xFB00, 0xFE0F), (0xFF00, 0xFFEF), (0x1F1E6, 0x1F1FF)]
RANGES += [(0x1F300, 0x1F6FF), (0x20000, 0x20100), (0x0, 0x1F), (0x0, 0xD7FF), (0xE000, 0x10FFFF)]


def random_text(dice: random.Random) -> str:
    pieces = [*" ".join(LINES).split(), " ", " ", " ", "\n", "  ", "\n\n", "\t", "ab", "a\u0301", "👩‍👩‍👧", "1️⃣"]
    return "".join(
        dice.choice(pieces) if dice.random() < 0.5 else chr(dice.randint(*dice.choice(RANGES)))
        for _ in range(dice.randint(0, 30))
    )


def tokens_of(encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    parts = [-1 if part is None else part for part in encoding.sequence_ids]
    return np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2), np.array(parts, dtype=np.int64)


def test_there_are_enough_families() -> None:
    assert len(FAMILIES) >= 12


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_of_a_real_tokenizer_is_in_exactly_one_word(family: str) -> None:
    tokenizer, dice = FAMILIES[family](), random.Random(family)
    counted = 0
    for number in range(100):
        parts = [random_text(dice) for _ in range(1 + number % 2)]
        offsets, part_of = tokens_of(tokenizer.encode(*parts))
        splitting = Splitting(parts)
        owners = splitting.assign(offsets, part_of)
        assert owners.tolist() == oracle(parts, offsets, part_of)
        for (start, end), part, owner in zip(offsets, part_of, owners, strict=True):
            assert (owner >= 0) == (part >= 0 and start < end)
            if owner >= 0:  # and the word really lies under the token
                spans = splitting.words[owner].spans[part]
                assert any(start < last and first < end for first, last in spans)
        # what tokens say sums up to the same over words
        values = np.linspace(-1, 2, len(owners))
        shares = np.bincount(owners + 1, weights=values, minlength=len(splitting.words) + 1)
        assert shares.sum() == pytest.approx(values.sum(), abs=1e-9)
        counted += int((owners >= 0).sum())
    assert counted > 200


@pytest.mark.parametrize("family", ["gpt2-bytelevel", "llama3-split-bytelevel", "xlmr-unigram-metaspace"])
def test_pieces_of_one_word_meet_in_it(family: str) -> None:
    of = "It isn't unbelievable\nin 中文"
    tokenizer = FAMILIES[family]()
    splitting = read([of])
    offsets, part_of = tokens_of(tokenizer.encode(of))
    owned = {splitting.words[owner].text for owner in splitting.assign(offsets, part_of) if owner >= 0}
    assert {"It", "isn't", "unbelievable", "in", "中", "文"} <= owned
