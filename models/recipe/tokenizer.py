"""The reader's tokenizer: a byte-level BPE.

Lossless, since an answer must reproduce the passage letter by letter; cased; one token per digit.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, USER, ASSISTANT, END = "<pad>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIALS = (PAD, USER, ASSISTANT, END)

# One digit per token: numbers of any length are copied digit by digit and none is a surprise.
WORDS = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\n+|\s"


def build(texts: Iterable[str], size: int) -> Tokenizer:
    """Train the tokenizer on `texts` with a vocabulary of `size`; no byte sequence is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
