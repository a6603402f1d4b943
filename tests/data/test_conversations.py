"""Conversations: dialogues and contexts with several answers as examples, and each fault of a line."""

import json

import pytest

from seq2seq_jax.data.conversations import Conversations
from seq2seq_jax.tasks.conversation import Conversation

TALK = {"id": "chat", "turns": [["A", "Hello!"], ["B", "Hi"], ["A", "Bye"]]}
CONTEXT = {"context": ["Hm", "Hi there.", "Is it free?"], "responses": ["Yes.", "No!"], "adversarial": ["Free beer"]}


@pytest.fixture
def opened(tmp_path):
    def open_(*lines, **fields):
        for name in ("train.jsonl", "dev.jsonl"):
            (tmp_path / name).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        return Conversations(directory=str(tmp_path), speakers=("A", "B"), **fields).open()

    return open_


def test_dialogues_and_contexts_are_examples_of_one_form(opened):
    corpus = opened(TALK, CONTEXT)
    assert list(corpus.examples("validation")) == [
        ("<a> Hello!", "Hi", [], [], "chat", 1),
        ("<a> Hello!<b> Hi", "Bye", [], [], "chat", 2),
        # The first speaker has the last word of a context, so that the second answers.
        ("<a> Hm<b> Hi there.<a> Is it free?", "Yes.", ["No!"], ["Free beer"], "2", 3),
    ]
    # Each answer is trained on, and no wrong one.
    assert [example[1:4] for example in corpus.examples("train")][2:] == [("Yes.", [], []), ("No!", [], [])]


def test_contexts_are_cut_and_made_lower_case_as_dialogues_are(opened):
    corpus = opened(CONTEXT, max_turns=2, lowercase=True)
    [example] = corpus.examples("validation")
    assert example == ("<b> hi there.<a> is it free?", "yes.", ["no!"], ["free beer"], "1", 3)
    scored = Conversation().scored(corpus.columns, example)
    assert scored["target"] == ["yes.", "no!"] and scored["adversarial"] == ["free beer"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"turns": []}, "expected a dialogue with turns in line 2"),
        (
            {"turns": [["A", "hi"], ["C", "ho"]]},
            "turn 2 in line 2 of .* to be of one of the speakers A, B; it is of 'C'",
        ),
        ({"context": "hi", "responses": ["ho"]}, "expected a list of texts as 'context' in line 2 .*; got hi"),
        ({"context": ["hi"], "responses": [1]}, "expected a list of texts as 'responses' in line 2"),
        ({"context": ["hi"]}, "expected a context and at least one response in line 2 .*; 'responses' is empty"),
        ({"context": [], "responses": ["ho"]}, "expected a context and at least one response .*; 'context' is empty"),
    ],
)
def test_what_is_no_conversation_is_one_line(opened, line, message):
    with pytest.raises(ValueError, match=message) as error:
        opened(TALK, line)
    assert "\n" not in str(error.value)


def test_a_conversation_has_two_speakers():
    with pytest.raises(ValueError, match="data.speakers of conversations must be two names"):
        Conversations(directory="x", speakers=("A", "B", "C"))
