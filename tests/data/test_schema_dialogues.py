"""Dialogues with schemas: the texts of states and acts, and each fault of a file in one line."""

import copy
import json

import pytest

from seq2seq_jax.data.schema_dialogues import DialogueActs, DialogueStates, is_spelt, words_of
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.evaluation.dialogue_states import EMPTY, apply_change
from seq2seq_jax.tasks.dialogue_state import DialogueState, StateRollout
from seq2seq_jax.tasks.task import Exchange, Reply

SCHEMA = [
    {
        "service_name": "Restaurants_1",
        "description": "Find a place to eat",
        "slots": [
            {"name": "city", "description": "Where it is", "is_categorical": False},
            {"name": "time", "description": "When", "is_categorical": False},
            {"name": "party_size", "description": "How many", "is_categorical": True},
            {"name": "phone_number", "description": "Its phone", "is_categorical": False},
        ],
        "intents": [{"name": "ReserveRestaurant", "description": "Book a table"}],
    },
    {"service_name": "Buses_1", "slots": [{"name": "city", "is_categorical": False}], "intents": [{"name": "FindBus"}]},
]


def state(service, intent, requested=(), **values):
    return {service: {"active_intent": intent, "requested_slots": list(requested), "slot_values": values}}


TALK = {
    "dialogue_id": "1",
    "services": ["Restaurants_1", "Buses_1"],
    "turns": [
        {
            "speaker": "USER",
            "utterance": "A table for 2 at half past 11.",
            "state": state("Restaurants_1", "ReserveRestaurant", party_size=["2"], time=["11:30 am", "half past 11"]),
        },
        {
            "speaker": "SYSTEM",
            "utterance": "For 2 at 11:30 am in SF?",
            "actions": [
                ["CONFIRM", "time", ["11:30 am"]],
                ["CONFIRM", "city", ["SF"]],
                ["INFORM", "has_wifi", ["True"]],
                ["GOODBYE", "", []],
                ["OFFER_INTENT", "intent", ["FindBus"]],
            ],
        },
        {
            "speaker": "USER",
            "utterance": "Yes. Their phone? And a bus to SF",
            "state": state(
                "Restaurants_1", "ReserveRestaurant", ["phone_number"], party_size=["2"], city=["SF"],
                time=["11:30 am", "half past 11"],
            )
            | state("Buses_1", "FindBus", city=["San Francisco", "SF"]),
        },
        {"speaker": "SYSTEM", "utterance": "Bye", "actions": [["GOODBYE", "", []]]},
    ],
}  # fmt: skip


@pytest.fixture
def source(tmp_path):
    def make(kind, dialogue=TALK, schema=SCHEMA, train_schema=SCHEMA, **fields):
        (tmp_path / "train.jsonl").write_text(json.dumps(dialogue))
        (tmp_path / "dev.jsonl").write_text(json.dumps(dialogue))
        (tmp_path / "schema.train.json").write_text(json.dumps(train_schema))
        (tmp_path / "schema.dev.json").write_text(json.dumps(schema))
        return kind(directory=str(tmp_path), **fields)

    return make


def examples(source, split="train"):
    corpus = source.open([split])
    return [dict(zip(corpus.columns, values, strict=True)) for values in corpus.examples(split)]


def test_states_are_tracked_from_the_state_before_and_the_last_turns(source):
    first, second = examples(source(DialogueStates, lowercase=True, max_turns=2))
    assert first["source"] == "<@Buses_1><@Restaurants_1><user> a table for 2 at half past 11."
    # The spelling that the user has used.
    assert first["target"] == "<@Restaurants_1><!ReserveRestaurant><party_size> 2<time> half past 11"
    assert second["source"] == (
        "<@Buses_1><@Restaurants_1><!ReserveRestaurant><party_size> 2<time> half past 11"
        "<system> for 2 at 11:30 am in sf?<user> yes. their phone? and a bus to sf"
    )
    assert second["target"] == "<@Restaurants_1><city> sf<?phone_number><@Buses_1><!FindBus><city> sf"
    assert (first["dialogue"], first["turn"], second["turn"]) == ("1", 0, 2)
    assert second["categorical"] == {"Restaurants_1": ["party_size"], "Buses_1": []}


def test_restated_slots_are_those_that_the_last_two_turns_spell(source):
    second = examples(source(DialogueStates, lowercase=True, restated=True))[1]
    assert second["target"] == "<@Restaurants_1><party_size> 2<city> sf<?phone_number><@Buses_1><!FindBus><city> sf"


def test_restated_intents_are_those_of_all_services_that_a_turn_is_about(source):
    second = examples(source(DialogueStates, lowercase=True, restated_intents=True))[1]
    assert second["target"] == (
        "<@Restaurants_1><!ReserveRestaurant><city> sf<?phone_number><@Buses_1><!FindBus><city> sf"
    )


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (
            "names",
            "<@Buses_1><!FindBus><city><@Restaurants_1><!ReserveRestaurant><city><time><party_size><phone_number>",
        ),
        (
            "descriptions",
            "<@Buses_1> <!FindBus> <city> <@Restaurants_1> find a place to eat<!ReserveRestaurant> book a table"
            "<city> where it is<time> when<party_size> how many<phone_number> its phone",
        ),
    ],
)
def test_the_schema_stands_before_the_state(source, how, expected):
    first, second = examples(source(DialogueStates, lowercase=True, schema_in_source=how))
    assert first["source"].startswith(f"{expected}<@Buses_1><@Restaurants_1><user>")
    assert second["source"].startswith(f"{expected}<@Buses_1><@Restaurants_1><!ReserveRestaurant>")


@pytest.mark.parametrize("how", ["none", "descriptions"])
def test_in_a_conversation_a_tracker_reads_what_it_was_trained_on_and_shows_its_state(source, how):
    data = source(DialogueStates, lowercase=True, schema_in_source=how)
    first, second = examples(data)
    said, system, further = (turn["utterance"] for turn in TALK["turns"][:3])
    line, next_line = f"<@Restaurants_1><@Buses_1> {said}", f"<system> {system}<user> {further}"
    exchanges = [Exchange(line, first["target"]), Exchange(next_line, second["target"])]
    task = DialogueState()
    assert task.chat_source(data, [], line) == first["source"]
    assert task.chat_source(data, exchanges[:1], next_line) == second["source"]
    assert task.chat_reply(data, exchanges[:1]) == Reply(
        "", {"state": "Restaurants_1: ReserveRestaurant, party_size = 2, time = half past 11"}
    )
    assert task.chat_reply(data, exchanges) == Reply(
        "",
        {
            "state": "Restaurants_1: ReserveRestaurant, party_size = 2, time = half past 11, city = sf; asks for "
            "phone_number | Buses_1: FindBus, city = sf"
        },
    )


def test_a_conversation_names_its_services(source):
    data = source(DialogueStates, schema_in_source="names")
    for line, said in (("A table.", r"expected the services .*begin the line"), ("<@Taxi_1> A car.", "got 'Taxi_1'")):
        with pytest.raises(ValueError, match=said) as error:
            DialogueState().chat_source(data, [], line)
        assert "\n" not in str(error.value)


def test_services_that_the_training_schema_lacks_are_unseen(source):
    [first, _] = examples(source(DialogueStates, train_schema=SCHEMA[:1]), "validation")
    assert first["unseen"] == ["Buses_1"]


def test_a_models_own_state_is_rolled_through_each_dialogue(source):
    first, second = examples(source(DialogueStates, lowercase=True, max_turns=2))
    other = {**first, "dialogue": "2"}
    rollout = StateRollout([first, second, other])
    assert rollout.next_sources() == [(0, first["source"]), (2, other["source"])]
    rollout.take(["<@Restaurants_1><city> la", ""])
    [(index, text)] = rollout.next_sources()
    # What the model has written takes the place of the reference's state.
    assert index == 1 and text.startswith("<@Buses_1><@Restaurants_1><!NONE><city> la<system> for 2")
    rollout.take([second["target"]])
    assert rollout.next_sources() == []
    assert rollout.results[1].frames["Restaurants_1"].values == {"city": "sf"}
    assert rollout.results[2] == EMPTY
    again = StateRollout([first, second, first])
    assert [index for index, _ in again.next_sources()] == [0, 2], "dialogues of one name, one behind the other"


def test_references_rolled_through_a_dialogue_give_their_own_sources(source):
    turns = examples(source(DialogueStates, lowercase=True))
    rollout = StateRollout(turns)
    for turn in turns:
        assert rollout.next_sources() == [(turns.index(turn), turn["source"])]
        rollout.take([turn["target"]])
    assert apply_change(EMPTY, turns[0]["target"], services=["Restaurants_1"]) == rollout.results[0]


def test_responses_are_made_from_acts(source):
    first, second = examples(source(DialogueActs))
    assert first["source"] == (
        "<@Restaurants_1><CONFIRM><time> 11:30 am<city> SF<INFORM><has_wifi> True<GOODBYE>"
        "<OFFER_INTENT><intent> FindBus"
    )
    assert first["target"] == "For 2 at 11:30 am in SF?" and first["values"] == ["11:30 am", "SF"]
    assert second["source"] == "<@Restaurants_1><@Buses_1><GOODBYE>"
    with_turn = examples(source(DialogueActs, max_turns=1))[1]
    assert with_turn["source"] == "<@Restaurants_1><@Buses_1><user> Yes. Their phone? And a bus to SF<GOODBYE>"


def test_names_may_be_written_in_words(source):
    data = source(DialogueActs, names="words")
    first, second = examples(data)
    assert first["source"] == (
        "<@> restaurants<CONFIRM><slot> time<value> 11:30 am<slot> city<value> SF<INFORM><slot> has wifi<value> True"
        "<GOODBYE><OFFER_INTENT><slot> intent<value> FindBus"
    )
    assert second["source"] == "<@> restaurants<@> buses<GOODBYE>" and first["values"] == ["11:30 am", "SF"]
    tokens = set(data.special_tokens())
    assert {"<CONFIRM>", "<@>", "<slot>", "<value>"} <= tokens and "<city>" not in tokens
    assert words_of("RentalCars_12") == words_of("rental_cars") == "rental cars"


def test_names_of_the_schema_are_pieces_of_the_tokenizer(source):
    data = source(DialogueStates, lowercase=True)
    tokens = data.special_tokens()
    assert {"<user>", "<system>", "<@Buses_1>", "<!FindBus>", "<!NONE>", "<city>", "<?city>"} <= set(tokens)
    config = TokenizerConfig(kind="char", vocabulary_size=400, special_tokens=tokens)
    tokenizer = Tokenizer.train([(each["source"], each["target"]) for each in examples(data)], config)
    pieces = tokenizer.target_pieces(tokenizer.encode_target(["<@Restaurants_1><time> 2<?city>"])[0])
    assert pieces == ["<@Restaurants_1>", "<time>", "▁", "2", "<?city>", "</s>"]
    assert {"<CONFIRM>", "<intent>", "<@Buses_1>", "<city>"} <= set(source(DialogueActs).special_tokens())


def changed(change):
    dialogue = copy.deepcopy(TALK)
    change(dialogue)
    return dialogue


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            DialogueStates,
            lambda talk: talk["turns"][0]["state"]["Restaurants_1"]["slot_values"].update(cuisine=["thai"]),
            "expected slots of the schema in the state of turn 1 in line 1 of train.jsonl; Restaurants_1 has no slot "
            "'cuisine'",
        ),
        (
            DialogueStates,
            lambda talk: talk["turns"][0]["state"]["Restaurants_1"]["requested_slots"].append("menu"),
            "Restaurants_1 has no slot 'menu'",
        ),
        (DialogueStates, lambda talk: talk["services"].append("Taxi_1"), "a service of the schema in line 1 of train"),
        (DialogueStates, lambda talk: talk.pop("services"), "a list of services in line 1 of train.jsonl; got None"),
        (DialogueStates, lambda talk: talk["turns"][2].pop("state"), "turn 3 in line 1 of train.jsonl to have a state"),
        (
            DialogueStates,
            lambda talk: talk["turns"][0]["state"].update(Hotels_1={}),
            "services of the dialogue in the state of turn 1 in line 1 of train.jsonl; got 'Hotels_1'",
        ),
        (
            DialogueStates,
            lambda talk: talk["turns"][0]["state"]["Restaurants_1"].pop("active_intent"),
            "active_intent, a text, requested_slots, a list of texts, and slot_values in the state of turn 1",
        ),
        (
            DialogueStates,
            lambda talk: talk["turns"][0]["state"]["Restaurants_1"]["slot_values"].update(time=[]),
            "a list of texts as time in the state of turn 1",
        ),
        (
            DialogueStates,
            lambda talk: talk["turns"][0]["state"]["Restaurants_1"]["slot_values"].update(time="11:30 am"),
            "a list of texts as time in the state of turn 1 in line 1 of train.jsonl; got '11:30 am'",
        ),
        (
            DialogueStates,
            lambda talk: talk["turns"][0]["state"]["Restaurants_1"]["slot_values"].update(party_size=2),
            "a list of texts as party_size in the state of turn 1",
        ),
        (
            DialogueStates,
            lambda talk: talk["turns"][0]["state"]["Restaurants_1"].update(active_intent="EatOut"),
            "an intent of the schema in the state of turn 1 in line 1 of train.jsonl; Restaurants_1 has no intent "
            "'EatOut'",
        ),
        (
            DialogueStates,
            lambda talk: talk["turns"][0]["state"].update(Restaurants_1=None),
            "active_intent, a text, requested_slots, a list of texts, and slot_values in the state of turn 1",
        ),
        (DialogueStates, lambda talk: talk.update(services=[{}]), "a list of services in line 1 of train.jsonl"),
        (
            DialogueActs,
            lambda talk: talk["turns"][1]["actions"].append(["CONFIRM", "time", "11:30 am"]),
            "all of them texts; got ['CONFIRM', 'time', '11:30 am']",
        ),
        (
            DialogueActs,
            lambda talk: talk["turns"][1]["actions"].append(["CONFIRM", "party_size", [2]]),
            "all of them texts; got ['CONFIRM', 'party_size', [2]]",
        ),
        (DialogueActs, lambda talk: talk["turns"][1].pop("actions"), "turn 2 in line 1 of train.jsonl to have actions"),
        (DialogueActs, lambda talk: talk["turns"].clear(), "a dialogue with turns in line 1"),
        (
            DialogueActs,
            lambda talk: talk["turns"][1].update(speaker="BOT"),
            "turn 2 in line 1 of {} to be of one of the speakers USER, SYSTEM; it is of 'BOT'",
        ),
    ],
)
def test_a_fault_of_a_dialogue_is_one_line(source, tmp_path, kind, change, message):
    with pytest.raises(ValueError) as error:
        source(kind, changed(change)).open(["train"])
    assert message.format(tmp_path / "train.jsonl") in str(error.value) and "\n" not in str(error.value)


def test_a_fault_of_a_schema_is_one_line(source):
    with pytest.raises(
        ValueError, match=r"expected a list of services with service_name, intents and slots in .*KeyError"
    ):
        source(DialogueStates, train_schema=[{"name": "x"}]).open(["train"])
    with pytest.raises(ValueError, match=r"expected the schema .*there is no such file"):
        source(DialogueStates, validation_schema="other.json").open(["validation"])
    with pytest.raises(ValueError, match="data.user must be one of data.speakers"):
        source(DialogueStates, user="A")


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [("SF", "in sf.", True), ("sf", "sfo", False), ("1", "at 11:30", False), ("1", "at 11, 1 of us", True)],
)
def test_a_value_is_spelt_as_whole_words(value, text, expected):
    assert is_spelt(value, text) is expected
