"""Text of unknown origin as plain text: no character of it steers a terminal or hides."""

import re

# First and last code point. Written out, so that the Unicode version of Python does not matter. Visible characters of
# category Cf (Arabic and Syriac number signs) are excluded.
_INVISIBLE_RANGES = (
    (0x00, 0x08),  # controls except tab and line feed
    (0x0B, 0x1F),
    (0x7F, 0x9F),
    (0xAD, 0xAD),  # soft hyphen
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x061C, 0x061C),
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),  # Mongolian variation selectors and vowel separator
    (0x200B, 0x200F),  # zero width, direction marks
    (0x2028, 0x202E),  # separators, bidi controls
    (0x2060, 0x206F),  # joiners, invisible operators, bidi isolates
    (0x2800, 0x2800),  # blank Braille pattern
    (0x3164, 0x3164),
    (0xD800, 0xDFFF),  # lone surrogates, which no file can contain
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),  # tags, more variation selectors
)
# A carriage return before a line feed is a line end, not a hidden character.
INVISIBLE = re.compile("\r\n|[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in _INVISIBLE_RANGES) + "]")
"""One invisible character, or a line end of two."""

_SPACE = re.compile(r"[ \t\n\r]+")  # each run is matched once: long ones take linear time


def visible(text: str) -> str:
    """Replace every invisible character by its glyph, such as ⟨U+001B⟩; tabs and line ends stay."""
    return INVISIBLE.sub(lambda found: glyph(found.group()), text)


def one_line(text: str) -> str:
    """A visible text without tabs and line ends; its other spaces stay as they are."""
    return visible(_SPACE.sub(lambda found: found[0] if not found[0].strip(" ") else " ", text))


def glyph(character: str) -> str:
    """The glyph of an invisible character; a line end of two characters is one line feed."""
    return "\n" if character == "\r\n" else f"⟨U+{ord(character):04X}⟩"
