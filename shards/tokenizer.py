"""SentencePiece, trained and loaded so that text survives the round trip.

No normalisation, no dummy prefix, byte fallback: decode(encode(text)) == text for any text without
U+2581, the character that SentencePiece itself writes for a space. The fingerprint of the model
file goes into every manifest; shards made with another tokenizer are refused before training.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from shards.errors import InputError

MAX_SENTENCE_BYTES = 1 << 20
"""SentencePiece passes over longer sentences in silence, so longer documents are cut."""

BOUNDARY_PIECE = "<|boundary|>"


@dataclass(frozen=True)
class Tokenizer:
    """A SentencePiece model with a document boundary token."""

    path: Path
    fingerprint: str
    """16 hex digits of the SHA-256 of the model file."""
    processor: Any

    @property
    def vocab_size(self) -> int:
        return int(self.processor.vocab_size())

    @property
    def boundary_id(self) -> int:
        """The token that ends each document."""
        return int(self.processor.eos_id())

    def encode_documents(self, documents: list[str], *, num_threads: int) -> list[list[int]]:
        """Token ids of each document, without boundary tokens."""
        encoded: list[list[int]] = self.processor.encode(documents, num_threads=num_threads)
        return encoded


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer stored in the SentencePiece model file `path`.

    Raises:
        InputError: no such file, no SentencePiece model, or one without an end-of-sentence token.
    """
    if not path.is_file():
        raise InputError(f"tokenizer {path} does not exist; `dga tokenizer` trains one")
    model = path.read_bytes()
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, UnicodeDecodeError):  # the latter from a message that quotes the model
        raise InputError(f"tokenizer {path} is not a SentencePiece model") from None
    if processor.eos_id() < 0:
        raise InputError(f"tokenizer {path} has no end-of-sentence token to mark document ends")
    return Tokenizer(path, hashlib.sha256(model).hexdigest()[:16], processor)


def train_tokenizer(documents: Iterable[str], *, path: Path, vocab_size: int) -> Tokenizer:
    """Trains a byte-pair model with byte fallback on `documents` and writes it to `path`.

    Raises:
        InputError: the text allows no tokenizer of `vocab_size` pieces. What `documents` raises is
            raised as it is.
    """
    model = io.BytesIO()
    raised: list[BaseException] = []
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(documents, raised),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            unk_id=0,
            eos_id=1,
            eos_piece=BOUNDARY_PIECE,
            bos_id=-1,
            pad_id=-1,
            max_sentence_length=MAX_SENTENCE_BYTES,
            minloglevel=2,
        )
    except RuntimeError as error:
        if raised:
            raise raised[0] from None
        reason = _why_untrained(str(error))
        raise InputError(f"a tokenizer of {vocab_size} pieces is impossible: {reason}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(model.getvalue())
    os.replace(temporary, path)
    return load_tokenizer(path)


def _sentences(documents: Iterable[str], raised: list[BaseException]) -> Iterator[str]:
    """The documents in pieces that SentencePiece accepts.

    SentencePiece turns an exception on the way into words of its own, so it is kept in `raised`.
    """
    num_characters = MAX_SENTENCE_BYTES // 4  # of at most four bytes each
    try:
        for document in documents:
            for start in range(0, len(document), num_characters):
                yield document[start : start + num_characters]
    except BaseException as error:
        raised.append(error)
        raise


def _why_untrained(message: str) -> str:
    """What SentencePiece's message says to someone who does not know its source."""
    if at_most := re.search(r"set it to a value <= (\d+)", message):
        return f"this text gives at most {at_most[1]}"
    if at_least := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return f"the bytes and the characters of this text alone are {at_least[1]}"
    if "vocab_size()) > (0)" in message:
        return "it must have at least one"
    if "!sentences_.empty()" in message:
        return "there is no text to train on"
    return message
