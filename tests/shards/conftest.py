"""A tokenizer for the tests of `shards`, trained once on a few words."""

from __future__ import annotations

import pytest

from shards.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """300 pieces: 256 bytes, the unknown piece, the boundary, and some of an English text."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    text = "the cat sat on the mat, and that was that: a fat cat on a flat hat.\n\tthen it ran\n"
    return train_tokenizer([text] * 20, path=path, vocab_size=300)
