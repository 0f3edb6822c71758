"""Function words and punctuation: they carry grammar and little meaning. The words are English."""

_ARTICLES = "a an the this that these those such some any no every each either neither both all another other"
_PRONOUNS = (
    "i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers "
    "herself it its itself they them their theirs themselves one who whom whose which what"
)
_PREPOSITIONS = (
    "of in on at to from by with without for about as into onto upon over under through between among during before "
    "after against within toward towards per via off out up down than"
)
_CONJUNCTIONS = (
    "and or but nor so yet if then else because while when where whether though although unless until since that"
)
_VERBS = (
    "be am is are was were been being do does did done doing have has had having will would shall should can could may "
    "might must ought"
)
_PARTICLES = "not n't 's 're 've 'll 'd 'm s t there here too also just very"

WORDS = frozenset(" ".join((_ARTICLES, _PRONOUNS, _PREPOSITIONS, _CONJUNCTIONS, _VERBS, _PARTICLES)).split())
"""The English function words, in lower case."""


def is_function_word(word: str) -> bool:
    """Whether a word is an English function word or has no letter and no digit.

    Args:
        word: a word as it stands in a text.

    Returns:
        True for "The", "isn't", "," and white space; False for "Sports" and "7".
    """
    bare = word.casefold().replace("’", "'")
    if bare in WORDS or not any(one.isalnum() for one in bare):
        return True
    stem, apostrophe, _ = bare.partition("'")
    return bool(apostrophe) and (stem in WORDS or (stem.endswith("n") and stem[:-1] in WORDS))
