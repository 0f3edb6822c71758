"""Small models from scratch: a tokenizer trained on the data and a transformer with fresh weights, without a hub."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from proponent.models.huggingface import transformers

INITIAL = 0.8
"""Standard deviation of fresh weights times the square root of the width: the usual .02 suits widths near 768; with
it, a narrow model is too flat to learn in a few passes."""

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wordpiece(texts: Iterable[str], vocabulary: int, max_length: int) -> Any:
    """Train a lower-casing WordPiece tokenizer."""
    texts = list(texts)
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # a token of text
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # Letters inside words are numbered in the order of a hash table, which differs between processes, and the numbers
    # break ties between merges. Passed in order, as if they were special tokens, they give the same vocabulary always.
    letters = [f"##{letter}" for letter in _inner_letters(tokenizer, texts)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=_SPECIAL + letters, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _plain(tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    return cast("Any", transformers.PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _inner_letters(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Every letter inside a word, except first letters, in order."""
    found: set[str] = set()
    for text in texts:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)):
            found.update(word[1:])
    return sorted(found)


def _plain(trained: Tokenizer) -> Tokenizer:
    """The same tokenizer without special tokens: transformers' tokenizer defines the real ones."""
    tokenizer = Tokenizer(models.WordPiece(vocab=trained.get_vocab(), unk_token="[UNK]"))  # a token of text
    tokenizer.normalizer, tokenizer.pre_tokenizer = trained.normalizer, trained.pre_tokenizer
    return tokenizer


def name_tokenizer(names: Sequence[str], special: Sequence[str]) -> Any:
    """A tokenizer that reads a whole text as one name; unknown names are [UNK]."""
    vocabulary = {name: number for number, name in enumerate((*special, *names))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    return cast("Any", transformers.PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer, model_max_length=2, pad_token="[PAD]", unk_token="[UNK]"
    )


def byte_bpe(texts: Iterable[str], vocabulary: int, max_length: int) -> Any:
    """Train a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return cast("Any", transformers.PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer, model_max_length=max_length, eos_token="<|end|>", pad_token="<|end|>"
    )


def classifier(tokenizer: Any, labels: Sequence[str], width: int, layers: int, max_length: int) -> Any:
    """Create a small BERT classifier with fresh weights."""
    config = cast("Any", transformers.BertConfig)(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=_heads(width),
        intermediate_size=2 * width,
        max_position_embeddings=max_length,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=INITIAL / width**0.5,
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
    )
    return cast("Any", transformers.BertForSequenceClassification)(config)


def causal_lm(tokenizer: Any, width: int, layers: int, max_length: int) -> Any:
    """Create a small GPT-2 with fresh weights (tied embeddings)."""
    config = cast("Any", transformers.GPT2Config)(
        vocab_size=len(tokenizer),
        n_embd=width,
        n_layer=layers,
        n_head=_heads(width),
        n_positions=max_length,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=INITIAL / width**0.5,
    )
    return cast("Any", transformers.GPT2LMHeadModel)(config)


def _heads(width: int) -> int:
    """Number of heads, about one per 32 dimensions; it must divide the width."""
    most = max(2, width // 32)
    return next(heads for heads in range(most, 0, -1) if width % heads == 0)
