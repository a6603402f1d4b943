"""Dialogue states as text and their scores, against hand-made frames and the arithmetic of schema_guided_dst."""

import random

import pytest

from seq2seq_jax.evaluation.dialogue_states import (
    EMPTY,
    Frame,
    State,
    apply_change,
    change_as_text,
    is_joint_goal,
    parts_of_change,
    score_frame,
    similarity,
    state_as_text,
    state_from_json,
    state_to_json,
)
from seq2seq_jax.evaluation.metric import Evaluated
from seq2seq_jax.evaluation.metrics.dialogue_state import DialogueStateScores, GoldDialogueStateScores
from seq2seq_jax.evaluation.metrics.slot_errors import SlotErrors
from seq2seq_jax.rewards.dialogue_state import slot_accuracy

TABLE = Frame("FindRestaurants", {"city": "san jose"})
BOOKED = Frame("ReserveRestaurant", {"city": "san jose", "time": "11:30 am"}, ("phone_number",))


def test_a_change_names_what_is_new_and_applying_it_gives_the_state():
    before = State({"Restaurants_1": TABLE}, ("Restaurants_1",))
    after = State({"Restaurants_1": BOOKED}, ("Restaurants_1",))
    text = change_as_text(before, after)
    assert text == "<@Restaurants_1><!ReserveRestaurant><time> 11:30 am<?phone_number>"
    assert apply_change(before, text, services=["Restaurants_1"]) == after
    # What was asked for is over with the next turn.
    again = apply_change(after, "<@Restaurants_1>", services=["Restaurants_1"])
    assert again.frames["Restaurants_1"] == Frame(BOOKED.intent, BOOKED.values)


def test_a_slot_is_taken_back_by_a_name_without_a_value():
    before = State({"Hotels_1": Frame("Find", {"a": "1", "b": "2"})}, ("Hotels_1",))
    after = State({"Hotels_1": Frame("Find", {"b": "3"})}, ("Hotels_1",))
    assert change_as_text(before, after) == "<@Hotels_1><b> 3<a>"
    assert apply_change(before, "<@Hotels_1><b> 3<a>", services=["Hotels_1"]) == after


def test_restated_slots_are_written_although_they_are_as_before():
    state = State({"R": Frame("Find", {"city": "sf", "time": "2"})}, ("R",))
    assert change_as_text(state, state, restated={"R": ["time"]}) == "<@R><time> 2"
    assert change_as_text(state, state) == "<@R>"


def test_a_state_ends_with_the_services_that_were_talked_about_last():
    state = State({"Z": TABLE, "A": Frame("Buy", {"seats": "2"})}, ("A",))
    assert state_as_text(state, ["A", "M", "Z"]) == ("<@M><@Z><!FindRestaurants><city> san jose<@A><!Buy><seats> 2")
    assert state_from_json(state_to_json(state)) == state


@pytest.mark.parametrize(
    ("text", "frames", "active"),
    [
        # Services that the dialogue does not have, text that is no part, and parts of no service are passed over.
        ("<@B><x> 1", {"A": TABLE}, ("A",)),
        ("hello", {"A": TABLE}, ("A",)),
        ("<city> sf<@A>", {"A": TABLE}, ("A",)),
        ("<@A><city>  new   york <!Other>", {"A": Frame("Other", {"city": "new york"})}, ("A",)),
        ("<@C><x> 1<@A>", {"A": TABLE, "C": Frame(values={"x": "1"})}, ("C", "A")),
    ],
)
def test_what_a_model_writes_is_read_as_far_as_it_can_be(text, frames, active):
    before = State({"A": TABLE}, ("A",))
    assert apply_change(before, text, services=["A", "C"]) == State(frames, active)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("11:30 am", "11:30 am", 1.0),
        # Words are sorted and signs are spaces: "11 30 am" both times.
        ("am 11:30", "11-30 AM", 1.0),
        # "jose san" and "san": 3 letters in common of 8 + 3, 54.5 in hundredths.
        ("San Jose", "san", 0.55),
        ("abc", "xyz", 0.0),
        # "abcd" and "abed": 3 of 4 on both sides.
        ("abcd", "abed", 0.75),
        ("", "", 1.0),
        ("é", "", 1.0),
    ],
)
def test_similarity_is_that_of_sorted_words_in_hundredths(first, second, expected):
    assert similarity(first, second) == expected == similarity(second, first)


def test_similarity_is_that_of_rapidfuzz():
    fuzz = pytest.importorskip("rapidfuzz.fuzz")
    utils = pytest.importorskip("rapidfuzz.utils")
    draw = random.Random(0)
    for _ in range(500):
        first, second = ("".join(draw.choices("abAB12 :-", k=draw.randint(1, 12))) for _ in range(2))
        expected = fuzz.token_sort_ratio(first, second, processor=utils.default_process)
        if utils.default_process(first) and utils.default_process(second):
            assert similarity(first, second) == round(expected) / 100


CATEGORICAL = {"size", "wifi"}
NAMES = {"size": ["1", "2"], "wifi": ["True", "False"], "city": ["San Jose", "SJ"], "date": ["march 1st", "the 1st"]}


def hand_made_frames():
    """50 pairs of frames, whose slots are absent, right, in another spelling, nearly right, wrong, or added."""
    draw = random.Random(3)
    kinds = ["absent", "right", "spelling", "near", "missing", "added"]
    cases = []
    for number in range(50):
        reference, predicted = {}, {}
        for slot, spellings in NAMES.items():
            [kind] = draw.choices(kinds, weights=[4, 5, 5, 3, 1, 1])
            if kind not in ("absent", "added"):
                reference[slot] = spellings[:1] if slot in CATEGORICAL else spellings
            if kind == "right" or (kind == "spelling" and slot in CATEGORICAL):
                predicted[slot] = spellings[0].upper()
            elif kind == "spelling":
                predicted[slot] = spellings[1]
            elif kind == "near":
                predicted[slot] = spellings[1] if slot in CATEGORICAL else f"{spellings[0]} x"
            elif kind == "added":
                predicted[slot] = "something"
        requested = (["a", "b", "c"][: number % 4], ["b", "c", "d"][: number % 3])
        intents = ("Find", ["Find", "Book"][number % 2])
        cases.append((reference, predicted, requested, intents))
    return cases


def published_scores(reference, predicted, requested, intents, *, is_exact):
    """Written out anew from the description of schema_guided_dst: joint goal, mean of active slots, intent, F1."""
    product, active = 1.0, []
    for slot in sorted({*NAMES, *predicted}):
        if slot in reference and slot in predicted:
            if slot in CATEGORICAL:
                score = 1.0 if reference[slot][0].lower() == predicted[slot].lower() else 0.0
            elif is_exact:
                score = 1.0 if predicted[slot].lower() in [each.lower() for each in reference[slot]] else 0.0
            else:
                score = max(similarity(each, predicted[slot]) for each in reference[slot])
        elif slot not in reference and slot not in predicted:
            score = 1.0
        else:
            score = 0.0
        product *= score
        if slot in reference:
            active.append(score)
    ours, theirs = requested[1], requested[0]
    true = len([each for each in ours if each in theirs])
    precision = true / len(ours) if ours else 1.0
    recall = true / len(theirs) if theirs else 1.0
    f1 = 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
    return product, sum(active) / len(active) if active else None, float(intents[0] == intents[1]), f1


@pytest.mark.parametrize("is_exact", [True, False])
def test_fifty_frames_are_scored_as_published(is_exact):
    found, expected = [], []
    for reference, predicted, requested, intents in hand_made_frames():
        frame = {"slot_values": reference, "requested_slots": requested[0], "active_intent": intents[0]}
        hypothesis = Frame(intents[1], predicted, tuple(requested[1]))
        found.append(score_frame(frame, hypothesis, is_exact=is_exact, categorical=CATEGORICAL))
        expected.append(published_scores(reference, predicted, requested, intents, is_exact=is_exact))
    for one, other in zip(found, expected, strict=True):
        assert one.slots is None if other[1] is None else one.slots == pytest.approx(other[1])
        assert (one.joint_goal, one.intent, one.requested) == pytest.approx((other[0], other[2], other[3]))
    assert len({round(each.joint_goal, 3) for each in found}) >= (2 if is_exact else 5), "the cases tell scores apart"


def frame(**values):
    return {
        "active_intent": "Find",
        "requested_slots": [],
        "slot_values": {name: [value] for name, value in values.items()},
    }


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ({"A": Frame("Find", {"city": "SAN JOSE", "time": "2"})}, True),
        ({"A": Frame("Other", {"city": "san jose", "time": "2"})}, True),
        ({"A": Frame("Find", {"city": "san jose"})}, False),
        ({"A": Frame("Find", {"city": "san jose", "time": "2"}), "B": Frame("Find", {"x": "1"})}, False),
        ({"A": Frame("Find", {"city": "san jose", "time": "2"}), "B": Frame("Find")}, True),
    ],
)
def test_the_joint_goal_takes_all_values_of_a_turn(predicted, expected):
    assert is_joint_goal({"A": frame(city="San Jose", time="2")}, predicted) is expected


def turn(dialogue, *, unseen=(), **frames):
    return {
        "dialogue": dialogue, "services": list(frames), "frames": frames, "unseen": list(unseen),
        "categorical": {name: [] for name in frames}, "previous": state_to_json(EMPTY),
    }  # fmt: skip


def test_scores_keep_seen_and_unseen_services_apart():
    examples = [turn("1", A=frame(city="sf")), turn("2", unseen=["B"], A=frame(city="sf"), B=frame(x="1"))]
    right, wrong = Frame("Find", {"city": "sf"}), Frame("Find", {"x": "2"})
    states = [State({"A": right}, ("A",)), State({"A": right, "B": wrong}, ("A", "B"))]
    found = DialogueStateScores().scores(Evaluated(outputs=None, examples=examples, rolled=states))
    values = {name: score.value for name, score in found.items()}
    assert [values[f"joint_goal{of}"] for of in ("", "_seen_dialogues", "_unseen_dialogues")] == [50.0, 100.0, 0.0]
    assert [values[f"slot_accuracy{of}"] for of in ("_seen", "_unseen")] == [100.0, 0.0]
    assert [values[f"intent_accuracy{of}"] for of in ("", "_seen", "_unseen")] == [100.0] * 3
    assert tuple(found) == DialogueStateScores().names
    outputs = ["<@A><!Find><city> sf", "<@A><!Find><city> sf<@B><x> 2"]
    gold = GoldDialogueStateScores().corpus(outputs, examples)
    assert [gold[f"gold_joint_goal{of}"].value for of in ("", "_seen_dialogues", "_unseen_dialogues")] == [50, 100, 0]
    assert gold["gold_intent_accuracy_unseen"].value == 0.0, "B has no intent"


def test_values_are_missing_where_a_response_does_not_spell_them():
    examples = [{"values": ["San Jose", "2"]}, {"values": []}, {"values": ["a  b"]}]
    found = SlotErrors().corpus(["in san jose", "hello", "A B"], examples)
    assert found["missing_values"].value == pytest.approx(100 / 3)
    assert found["slot_error_rate"].value == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("<@A><!Find><city> sf<?phone>", 1.0),
        # Service, intent and request are right, the slot is not.
        ("<@A><!Find><city> ny<?phone>", 0.75),
        # Of five parts on either side two are alike.
        ("<@A><!Book><city> sf<time> 2", 0.4),
        ("", 0.0),
    ],
)
def test_the_reward_is_the_fraction_of_parts_that_are_right(output, expected):
    assert slot_accuracy([output], ["<@A><!Find><city> sf<?phone>"]) == [expected]
    assert parts_of_change("<@A><!Find><city> sf<?phone>") == {
        ("A", "@", ""): "", ("A", "!", ""): "Find", ("A", "", "city"): "sf", ("A", "?", "phone"): "",
    }  # fmt: skip
