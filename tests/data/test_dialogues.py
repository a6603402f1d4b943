"""Dialogues: what examples are made of them, where contexts are cut, and each fault of a file in one line."""

import json

import pytest

from seq2seq_jax.data.dialogues import Dialogues, TurnTokens, dialogue_of
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig

TALK = {
    "dialogue_id": "1",
    "turns": [
        {"speaker": "USER", "utterance": "A table"},
        {"speaker": "SYSTEM", "text": "In which city?"},
        {"speaker": "USER", "utterance": "San Jose"},
        {"speaker": "SYSTEM", "utterance": "Done"},
    ],
}
CHAT = {"id": "chat", "turns": [["A", "Hello!"], ["B", "Hi"], ["A", "Bye"]]}


@pytest.fixture
def opened(tmp_path):
    def open_(*lines, **fields):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / "train.jsonl").write_text("\n".join(texts))
        return Dialogues(directory=str(tmp_path), validation=None, **fields).open()

    return open_


def test_every_turn_but_the_first_is_a_target_behind_what_was_said_before(opened):
    assert list(opened(CHAT, speakers=("A", "B")).examples("train")) == [
        ("<a> Hello!", "Hi", "chat", 1),
        ("<a> Hello!<b> Hi", "Bye", "chat", 2),
    ]


def test_answers_turns_and_case_are_those_that_the_config_names(opened):
    corpus = opened(TALK, answers=("SYSTEM",), max_turns=2, lowercase=True)
    assert list(corpus.examples("train")) == [
        ("<user> a table", "in which city?", "1", 1),
        ("<system> in which city?<user> san jose", "done", "1", 3),
    ]


def test_a_dialogue_without_a_name_is_called_by_its_line(opened):
    corpus = opened(CHAT, {"turns": CHAT["turns"][:2]}, speakers=("A", "B"))
    assert [example[2] for example in corpus.examples("train")] == ["chat", "chat", "2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "x", "turns": []}, "a dialogue with turns in line 2 of {}; it has none: leave the line out"),
        ({"id": "x"}, "a dialogue with a list of turns in line 2 of {}; it has id: write"),
        (
            {"turns": [["A", "a"], ["C", "c"]]},
            "turn 2 in line 2 of {} to be of one of the speakers A, B; it is of 'C': name all in data.speakers",
        ),
        ({"turns": [{"speaker": "A"}]}, "turn 1 in line 2 of {} to have a speaker and a text; got {{'speaker': 'A'}}"),
        ({"turns": ["a"]}, "turn 1 in line 2 of {} to have a speaker and a text; got a: write"),
        ("[", "a JSON object in line 2 of {}"),
    ],
)
def test_a_line_that_is_no_dialogue_is_one_line(opened, tmp_path, line, message):
    with pytest.raises(ValueError) as error:
        opened(CHAT, line, speakers=("A", "B"))
    assert message.format(tmp_path / "train.jsonl") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"speakers": ("A", "A")}, "data.speakers must be names that differ"),
        ({"speakers": ("a", "A")}, "data.speakers must be names that differ, whatever their case"),
        ({"speakers": ("the user", "A")}, "data.speakers must be names without spaces and angle brackets"),
        ({"max_turns": 0}, "data.max_turns must be at least 1"),
        ({"answers": ("BOT",)}, r"data.answers must be of data.speakers \('USER', 'SYSTEM'\), and has 'BOT'"),
        ({"train": "train.tsv"}, "expected a file of the kind .jsonl"),
    ],
)
def test_a_field_that_does_not_fit_is_refused(opened, fields, message):
    with pytest.raises(ValueError, match=message):
        opened(TALK, **fields)


class Pieces(Tokenizer):
    """Ids of single characters; < and > are the tokens of speakers."""

    fingerprint = "pieces"
    vocabulary = Tokenizer.train([("ab",)], TokenizerConfig(vocabulary_size=300, kind="char")).vocabulary

    def __init__(self):
        pass

    def encode_source(self, texts):
        return [[*map(ord, text), 3] for text in texts]

    def source_id(self, piece):
        return ord(piece)


@pytest.mark.parametrize(
    ("text", "max_length", "expected"),
    [
        ("h<aa>b<cc", 10, "h<aa>b<cc"),
        # 9 characters and the EOS token: one too many takes the whole first turn.
        ("h<aa>b<cc", 9, "h>b<cc"),
        ("h<aa>b<cc", 7, "h>b<cc"),
        ("h<aa>b<cc", 6, "h<cc"),
        # The last turn stays, and loses its beginning.
        ("h<aa>b<cccc", 5, "cccc"),
        ("aaaa", 3, "aa"),
    ],
)
def test_a_long_context_loses_its_oldest_turns_whole(text, max_length, expected):
    column = TurnTokens(max_length=max_length, truncate="left", borders=("<", ">"))
    assert "".join(map(chr, column.encode([text], Pieces())[0][:-1])) == expected
    assert column.cut_ids([*map(ord, text), 3], Pieces()) == [*map(ord, expected), 3], "sources to generate from, too"


def test_the_tokens_of_speakers_are_found_in_a_trained_tokenizer():
    config = TokenizerConfig(kind="char", vocabulary_size=300, special_tokens=("<user>", "<system>"))
    tokenizer = Tokenizer.train([("<user> abc<system> d", "e")], config)
    column = TurnTokens(max_length=4, truncate="left", borders=("<user>", "<system>"))
    assert tokenizer.decode_source(column.encode(["<user> abc<system> d"], tokenizer)[0].tolist()) == "<system> d"


def test_a_dialogue_without_a_name_has_that_of_its_line():
    for fields in ({}, {"id": None}, {"dialogue_id": "", "id": None}):
        assert dialogue_of({"turns": [["A", "hi"]], **fields}, 7, "x", speakers=("A",)).name == "7"
    assert dialogue_of({"turns": [["A", "hi"]], "id": 0}, 7, "x", speakers=("A",)).name == "0"


def test_dialogues_of_one_turn_are_no_examples(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"turns": [["USER", "hi"]]}\n')
    with pytest.raises(ValueError, match="expected train examples; there are none"):
        Dialogues(directory=str(tmp_path)).open(["train"])
