"""Text through a tokenizer and back, and models that cannot be trained or loaded."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import tokenizer as tokenizer_module
from shards.errors import InputError
from shards.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

WORDS = ["the cat sat on the mat", "that was that"] * 5

TEXTS = [
    "",
    " ",
    "  leading and trailing  ",
    "tab\t\ttab",
    "line\r\nline\n\nline\r",
    "NUL\0\0 in the middle\0",
    "漢字かな交じり文",
    "👩‍🔬 🇩🇪 ﷽ é é",
    "\ufeffbyte order mark\ufeff",
    "\u00a0\u2028\u200b\u00ad",
    "▅ \ufffd \uffff \U0010ffff \ue000",
    "<|boundary|> <unk> <s> </s> <pad>",
    "<0x41><0x0A>\\n",
    "the cat " * 20_000,
]


@pytest.mark.parametrize("text", TEXTS, ids=[ascii(text[:12]) for text in TEXTS])
def test_text_comes_back_to_the_letter(tokenizer: Tokenizer, text: str) -> None:
    (tokens,) = tokenizer.encode_documents([text], num_threads=1)
    assert tokenizer.processor.decode(tokens) == text
    assert tokenizer.boundary_id not in tokens
    assert tokenizer.processor.unk_id() not in tokens


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")))
@settings(deadline=None)
def test_any_text_comes_back_to_the_letter(tokenizer: Tokenizer, text: str) -> None:
    (tokens,) = tokenizer.encode_documents([text], num_threads=1)
    assert tokenizer.processor.decode(tokens) == text
    assert tokenizer.boundary_id not in tokens


def test_no_space_is_put_before_a_document(tokenizer: Tokenizer) -> None:
    pieces = tokenizer.processor.encode("that cat", out_type=str)
    assert "".join(pieces) == "that▁cat"


def test_documents_keep_their_order_over_threads(tokenizer: Tokenizer) -> None:
    documents = [f"{n} cats sat" for n in range(300)]
    in_order = [tokenizer.encode_documents([document], num_threads=1)[0] for document in documents]
    assert tokenizer.encode_documents(documents, num_threads=4) == in_order


def test_a_trained_tokenizer_is_the_one_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.model"
    trained = train_tokenizer(WORDS, path=path, vocab_size=280)
    loaded = load_tokenizer(path)
    assert (trained.path, trained.vocab_size, trained.boundary_id) == (path, 280, 1)
    assert (loaded.path, loaded.vocab_size, loaded.boundary_id) == (path, 280, 1)
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert trained.fingerprint == loaded.fingerprint == fingerprint
    assert loaded.processor.id_to_piece(1) == "<|boundary|>"
    assert [file.name for file in path.parent.iterdir()] == ["a.model"]


def test_training_twice_gives_the_same_file_and_other_text_another(tmp_path: Path) -> None:
    first = train_tokenizer(WORDS, path=tmp_path / "a", vocab_size=280)
    again = train_tokenizer(iter(WORDS), path=tmp_path / "b", vocab_size=280)
    other = train_tokenizer([*WORDS, "a fat rat"], path=tmp_path / "c", vocab_size=280)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert first.fingerprint == again.fingerprint != other.fingerprint


def refusal_of(documents: list[str], path: Path, *, vocab_size: int) -> str:
    with pytest.raises(InputError) as refusal:
        train_tokenizer(documents, path=path, vocab_size=vocab_size)
    assert not path.exists()
    return str(refusal.value)


def test_a_vocabulary_too_large_for_the_text_is_told_the_largest(tmp_path: Path) -> None:
    pattern = r"a tokenizer of (\d+) pieces is impossible: this text gives at most (\d+)"
    told = re.fullmatch(pattern, refusal_of(WORDS, tmp_path / "a", vocab_size=5000))
    assert told and told[1] == "5000"
    largest = int(told[2])
    refusal = refusal_of(WORDS, tmp_path / "a", vocab_size=largest + 1)
    assert re.fullmatch(pattern, refusal)
    assert train_tokenizer(WORDS, path=tmp_path / "a", vocab_size=largest).vocab_size == largest


def test_a_vocabulary_too_small_for_the_text_is_told_the_smallest(tmp_path: Path) -> None:
    # 256 bytes, the unknown piece, the boundary; and c, a, t, s and the space.
    message = "is impossible: the bytes and the characters of this text alone are 263"
    refusal = refusal_of(["cat sat"], tmp_path / "a", vocab_size=262)
    assert refusal == f"a tokenizer of 262 pieces {message}"
    assert train_tokenizer(["cat sat"], path=tmp_path / "a", vocab_size=263).vocab_size == 263


@pytest.mark.parametrize("documents", [[], [""], ["", ""]])
def test_no_text_is_refused(tmp_path: Path, documents: list[str]) -> None:
    refusal = refusal_of(documents, tmp_path / "a", vocab_size=300)
    assert refusal == "a tokenizer of 300 pieces is impossible: there is no text to train on"


@pytest.mark.parametrize("vocab_size", [0, -5])
def test_no_pieces_are_refused(tmp_path: Path, vocab_size: int) -> None:
    refusal = refusal_of(WORDS, tmp_path / "a", vocab_size=vocab_size)
    assert refusal == f"a tokenizer of {vocab_size} pieces is impossible: it must have at least one"


@pytest.mark.parametrize("error", [InputError("a.jsonl:3 is bad"), KeyboardInterrupt(), KeyError()])
def test_an_error_of_the_documents_is_raised_as_it_is(tmp_path: Path, error: BaseException) -> None:
    def documents() -> Iterator[str]:
        yield from WORDS
        raise error

    with pytest.raises(type(error)) as raised:
        train_tokenizer(documents(), path=tmp_path / "a", vocab_size=270)
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_failed_training_leaves_the_old_file(tmp_path: Path) -> None:
    train_tokenizer(WORDS, path=tmp_path / "a", vocab_size=280)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(InputError):
        train_tokenizer(WORDS, path=tmp_path / "a", vocab_size=5000)
    assert (tmp_path / "a").read_bytes() == before


def test_a_document_longer_than_a_sentence_may_be_is_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_module, "MAX_SENTENCE_BYTES", 64)
    long_text = "ŝanĝo 漢字 👩‍🔬 " * 100
    trained = train_tokenizer([long_text], path=tmp_path / "a", vocab_size=290)
    pieces = {trained.processor.id_to_piece(i) for i in range(258, 290)}
    assert {"ŝ", "ĝ", "漢", "字", "👩", "🔬"} <= pieces


def load_refusal(path: Path) -> str:
    with pytest.raises(InputError) as refusal:
        load_tokenizer(path)
    return str(refusal.value)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.model"
    message = f"tokenizer {path} does not exist; `dga tokenizer` trains one"
    assert load_refusal(path) == message
    path.mkdir()
    assert load_refusal(path) == message


@pytest.mark.parametrize("content", [b"", b"\0", b"no model", b"\xff" * 1000])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.model"
    path.write_bytes(content)
    assert load_refusal(path) == f"tokenizer {path} is not a SentencePiece model"


def test_a_model_cut_anywhere_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = tokenizer.path.read_bytes()
    path = tmp_path / "a.model"
    for num_bytes in range(0, len(model), 13):
        path.write_bytes(model[:num_bytes])
        assert load_refusal(path) == f"tokenizer {path} is not a SentencePiece model"


@given(st.data())
@settings(deadline=None)
def test_a_model_with_a_changed_byte_is_refused_or_another(
    tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    model = bytearray(tokenizer.path.read_bytes())
    model[data.draw(st.integers(0, len(model) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "changed.model"
    path.write_bytes(model)
    try:
        changed = load_tokenizer(path)
    except InputError as refusal:
        assert str(refusal).startswith(f"tokenizer {path} ")
    else:
        assert changed.fingerprint != tokenizer.fingerprint


def test_a_message_that_is_not_utf_8_is_a_refusal_too(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.model"
    path.write_bytes(tokenizer.path.read_bytes().replace(b"<0x41>", b"<\xb0x41"))
    assert load_refusal(path) == f"tokenizer {path} is not a SentencePiece model"


def test_a_model_without_a_boundary_is_refused(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS),
        model_writer=model,
        vocab_size=25,
        model_type="bpe",
        eos_id=-1,
        minloglevel=2,
    )
    path = tmp_path / "a.model"
    path.write_bytes(model.getvalue())
    message = f"tokenizer {path} has no end-of-sentence token to mark document ends"
    assert load_refusal(path) == message
