"""A conversation with a model: what it reads, how it goes on, and what is refused."""

import contextlib
import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from command_line import call
from shared import made_once

import seq2seq_jax
from seq2seq_jax.commands.chat import _default_method, _Growing
from seq2seq_jax.commands.conversation import PROMPT
from seq2seq_jax.data.conversations import Conversations
from seq2seq_jax.data.dialogues import Dialogues
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.generation.methods import BeamSearch, Sampling
from seq2seq_jax.tasks.conversation import Conversation
from seq2seq_jax.tasks.task import Exchange, Reply

# A run has to be made first.
pytestmark = pytest.mark.long

REPOSITORY = pathlib.Path(__file__).parents[2]

CONFIG = '''"""Talk of animals, for tests."""

import dataclasses

from seq2seq_jax.data.conversations import Conversations
from seq2seq_jax.experiment import load_config_by_name


def experiment():
    chat = load_config_by_name("chitchat/transformer_small")
    stack = {"model_dim": 32, "hidden_dim": 32, "num_layers": 1, "num_heads": 2, "dropout": 0.0}
    model = dataclasses.replace(
        chat.model,
        encoder=dataclasses.replace(chat.model.encoder, **stack),
        decoder=dataclasses.replace(chat.model.decoder, **stack),
    )
    return dataclasses.replace(
        chat,
        data=dataclasses.replace(
            chat.data, directory="talk", train="talk.jsonl", validation="talk.jsonl", max_turns=3, max_source_length=32,
            max_target_length=16, cache_directory="cache",
        ),
        tokenizer=dataclasses.replace(chat.tokenizer, vocabulary_size=330),
        model=model,
        optimizer=dataclasses.replace(chat.optimizer, learning_rate=1e-2, warmup_steps=5, ema_decay=None),
        training=dataclasses.replace(
            chat.training, steps=40, target_tokens_per_batch=256, log_every=40, checkpoint_every=40, evaluate_every=40
        ),
        generation=dataclasses.replace(chat.generation, maximum_length_extra=12),
    )
'''


@pytest.fixture(scope="session")
def talks(tmp_path_factory):
    """A run that has seen some talk of animals. Not to be changed."""

    def train(directory):
        (directory / "talk").mkdir()
        (directory / "config.py").write_text(CONFIG)
        animals = ["dogs", "cats", "cows", "birds", "horses"]
        lines = [
            {"turns": [["A", f"I like {one}."], ["B", f"I have {two}."], ["A", f"Do {two} like {one}?"], ["B", "no"]]}
            for one in animals
            for two in animals
        ]
        (directory / "talk" / "talk.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        with contextlib.chdir(directory):
            assert call("train", "config.py", "--run-dir", "run") == 0

    return made_once(tmp_path_factory, "talks", train) / "run"


def answers_of(run, exchanges, *, number, **settings):
    """What Python's door gives for what the model should read, as the answer of this number."""
    texts = [text for pair in exchanges for text in pair if text is not None]
    source = "".join(f"<{'ab'[index % 2]}> {text.lower()}" for index, text in enumerate(texts[-3:], len(texts[:-3])))
    [[found]] = seq2seq_jax.load(str(run)).hypotheses([source], lines=[number], **settings)
    return found.text


def test_a_pipe_is_answered_line_by_line_and_commands_change_what_is_read(seq2seq, talks, tmp_path):
    lines = [
        "I like Dogs.", "", "/retry", "Do dogs like cats?", "/undo", "Really?", "/settings temperature=0.5 top_p=None",
        "//help", "/reset", "Bye.",
    ]  # fmt: skip
    transcript = tmp_path / "talk.jsonl"
    outcome = seq2seq("chat", talks, "--transcript", transcript, stdin="".join(f"{line}\n" for line in lines).encode())
    assert outcome.status == 0
    first, blank, again, second, third, cooler, last = outcome.output.removesuffix("\n").split("\n")
    assert blank == ""
    assert first == answers_of(talks, [("I like Dogs.", None)], number=1)
    assert again == answers_of(talks, [("I like Dogs.", None)], number=2)
    said = [("I like Dogs.", again)]
    assert second == answers_of(talks, [*said, ("Do dogs like cats?", None)], number=3)
    # What was taken back is not read any more, nor its answer drawn again.
    assert third == answers_of(talks, [*said, ("Really?", None)], number=4)
    said.append(("Really?", third))
    assert cooler == answers_of(talks, [*said, ("/help", None)], number=5, temperature=0.5, top_p=None)
    assert last == answers_of(talks, [("Bye.", None)], number=6, temperature=0.5, top_p=None)
    assert "temperature=0.5, top_k=None, top_p=None" in outcome.errors

    records = [json.loads(line) for line in transcript.read_text().splitlines()]
    assert [(each.get("turn"), each.get("user"), each.get("answer"), each.get("command")) for each in records] == [
        (1, "I like Dogs.", first, None), (1, "I like Dogs.", again, "/retry"), (2, "Do dogs like cats?", second, None),
        (None, None, None, "/undo"), (2, "Really?", third, None), (None, None, None, "/settings"),
        (3, "/help", cooler, None), (None, None, None, "/reset"), (1, "Bye.", last, None),
    ]  # fmt: skip
    assert len({first, again, second, third}) > 1


def test_the_same_lines_get_the_same_answers_and_another_seed_others(seq2seq, talks):
    lines = b"I like dogs.\nDo cats like birds?\nDo cows like horses?\n"
    warm = ["--generation.temperature", "5", "--generation.top-p", "None", "--generation.seed"]
    outputs = [seq2seq("chat", talks, *warm, seed, stdin=lines).output for seed in ("0", "0", "1")]
    assert outputs[0] == outputs[1] != outputs[2]


def test_what_is_no_command_is_said_and_the_conversation_goes_on(seq2seq, talks):
    lines = "/undo\n/retry\n/again\n/undo it\n/settings heat=1\n/settings heat\n/settings top_p=2\nI like dogs.\n"
    outcome = seq2seq("chat", talks, stdin=lines.encode())
    assert outcome.status == 0
    said = [line for line in outcome.errors.splitlines() if line]
    assert [line.partition("; ")[0].partition(",")[0] for line in said[:4]] == [
        *(f"{name} has nothing to take back: nothing was said yet." for name in ("/undo", "/retry")),
        "there is no command '/again'", "there is no command '/undo it'",
    ]  # fmt: skip
    assert "the commands are /undo, /retry, /reset, /settings, /help" in said[2]
    assert said[4].startswith("there is no setting 'heat'; the settings are maximum_length_ratio, ")
    assert said[5] == "/settings takes NAME=VALUE, such as temperature=0.7, and got 'heat'."
    assert said[6].startswith("top_p must lie above 0 and at most at 1, got 2.0")
    assert outcome.output == answers_of(talks, [("I like dogs.", None)], number=1) + "\n"


def test_a_beam_answers_too(seq2seq, talks):
    arguments = ["--generation", "beam_search", "--generation.beam-size", "2", "--generation.n-best", "2"]
    outcome = seq2seq("chat", talks, *arguments, stdin=b"I like dogs.\n")
    method = BeamSearch(beam_size=2, maximum_length_ratio=0.0, maximum_length_extra=12)
    assert outcome.output == answers_of(talks, [("I like dogs.", None)], number=1, method=method) + "\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--transcript", "-"], "--transcript takes a file"),
        (["--transcript", "no/such/place"], "--transcript no/such/place cannot be written"),
        (["--checkpoint", "7"], "7"),
        (["--generation", "speaking"], "speaking"),
    ],
)
def test_what_does_not_fit_is_one_line(seq2seq, talks, arguments, said):
    outcome = seq2seq("chat", talks, *arguments, stdin=b"hi\n")
    assert outcome.status == 2 and said in outcome.error_line


def test_a_run_that_holds_no_conversations_is_refused(seq2seq, trained):
    outcome = seq2seq("chat", trained, stdin=b"hi\n")
    assert outcome.status == 2
    assert "holds no conversations: its task is Translation" in outcome.error_line


class Stateful(Conversation):
    """Shows half of its output as a state, as tasks with a state do."""

    says_output = False

    def chat_reply(self, data, exchanges):
        output = exchanges[-1].output
        return Reply(output[3:], {"state": output[:3] + "\n!"})


def test_what_a_task_shows_stands_before_what_it_says(seq2seq, talks, tmp_path, monkeypatch):
    plain = seq2seq("chat", talks, stdin=b"I like dogs.\n").output.rstrip("\n")
    for name in ("says_output", "chat_reply"):
        monkeypatch.setattr(Conversation, name, Stateful.__dict__[name])
    transcript = tmp_path / "talk.jsonl"
    outcome = seq2seq("chat", talks, "--transcript", transcript, stdin=b"I like dogs.\n/settings\n")
    # The run's own method, as nothing is drawn by chance where a state is searched for; here that is the same.
    shown, *rest = outcome.output.rstrip("\n").split("\n")
    assert shown == f"[state] {plain[:3]} !" and rest == ([plain[3:]] if plain[3:] else [])
    record = json.loads(transcript.read_text())
    assert (record["answer"], record["shown"]) == (plain[3:], {"state": plain[:3] + "\n!"})


def test_answers_are_drawn_by_chance_unless_the_run_or_its_task_says_otherwise(talks):
    experiment = seq2seq_jax.load(str(talks)).experiment
    assert _default_method(experiment) == experiment.generation
    searching = BeamSearch(maximum_length_ratio=0.5, maximum_length_extra=7)

    class Experiment:
        generation = searching
        task = Conversation()

    assert _default_method(Experiment) == Sampling(top_p=0.9, maximum_length_ratio=0.5, maximum_length_extra=7)
    Experiment.task = Stateful()
    assert _default_method(Experiment) is searching


def test_the_prompt_is_what_was_said_in_the_form_of_the_data():
    data = Conversations(directory="x", speakers=("A", "B"), max_turns=4, lowercase=True)
    said = [Exchange("One", "Two"), Exchange("Three", "Four")]
    assert Conversation().chat_source(data, said[:1], "Three") == "<a> one<b> two<a> three"
    assert Conversation().chat_source(data, said, "FIVE") == "<b> two<a> three<b> four<a> five"
    assert Conversation().chat_reply(data, [*said, Exchange("Six", "so")]) == Reply("so", {})


def test_the_system_of_task_oriented_dialogues_is_what_answers():
    experiment = load_config_by_name("sgd/response")
    said = [Exchange("A table!", "Where?")]
    prompt = experiment.task.chat_source(experiment.data, said, "In San Jose.")
    assert prompt == "<user> A table!<system> Where?<user> In San Jose."
    assert _default_method(experiment).top_p == 0.9


def test_a_conversation_is_between_two_speakers():
    Conversation().check(Dialogues(directory="x"), TokenizerConfig())
    with pytest.raises(ValueError, match="between two speakers") as error:
        Conversation().check(Dialogues(directory="x", speakers=("A", "B", "C")), TokenizerConfig())
    assert "\n" not in str(error.value)


def test_a_growing_text_is_said_once_and_no_character_in_parts():
    text = _Growing()
    assert [text.more(each) for each in ("I", "I a", "I a\ufffd", "I aé", "I aé\nb")] == ["I", " a", "", "é", " b"]
    assert text.rest("I aé\nb!") == "!"
    # What another end makes of it stands on a line of its own.
    assert text.rest("We") == "\nWe"


IN_ITS_TERMINAL = """
import fcntl, os, signal, sys, termios

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "seq2seq_jax", *sys.argv[1:]])
"""
SECONDS = 240


class Terminal:
    """A process whose standard streams are a terminal."""

    def __init__(self, *arguments):
        self._typed, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_ITS_TERMINAL, *map(str, arguments)],
            stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TERM": "dumb"},
        )  # fmt: skip
        os.close(terminal)
        self._shown = b""

    def write(self, text):
        os.write(self._typed, text.encode())

    def wait_for(self, text, *, again=None):
        """What is shown before a text; while it is not, `again` is typed every few seconds."""
        deadline = time.monotonic() + SECONDS
        while text.encode() not in self._shown:
            assert time.monotonic() < deadline, self._shown
            if select.select([self._typed], [], [], 5)[0]:
                self._shown += os.read(self._typed, 4096)
            elif again is not None:
                self.write(again)
        before, self._shown = self._shown.split(text.encode(), 1)
        return before.decode().replace("\r\n", "\n")

    def close(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._typed)


def test_a_terminal_shows_answers_and_takes_commands(talks):
    terminal = Terminal("chat", talks)
    try:
        assert "Say something. /help lists commands" in terminal.wait_for(PROMPT)
        terminal.write("I like dogs.\n")
        first = answers_of(talks, [("I like dogs.", None)], number=1)
        # The terminal shows the line that was typed; the answer stands below it.
        assert terminal.wait_for(PROMPT) == f"I like dogs.\n{first}\n"
        terminal.write("never sent")
        terminal.wait_for("never sent")
        terminal.write("\x03")
        # Python's readline misses an interrupt that comes between a character and its waiting for the next one.
        terminal.wait_for(PROMPT, again="\x03")
        terminal.write("/retry\n")
        again = answers_of(talks, [("I like dogs.", None)], number=2)
        assert terminal.wait_for(PROMPT).endswith(f"/retry\n{again}\n")
        terminal.write("/settings\n")
        assert "top_p=0.9" in terminal.wait_for(PROMPT)
        terminal.write("\x04")
        assert terminal.process.wait(SECONDS) == 0
    finally:
        terminal.close()


def test_answers_of_contexts_are_scored_and_compared_with_wrong_ones(seq2seq, talks, trained, tmp_path):
    contexts = [
        {"context": ["I like dogs."], "responses": ["I have cats.", "I have cows."], "adversarial": ["like dogs I"]},
        {"context": ["Do cows like dogs?"], "responses": ["no"], "adversarial": ["cows. cows. dogs"]},
        {"context": ["Hi"], "responses": ["no"]},
    ]
    (tmp_path / "contexts.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in contexts))
    data = ["--split", "test", "--data.directory", tmp_path, "--data.test", "contexts.jsonl"]
    file = tmp_path / "scores.json"
    outcome = seq2seq("evaluate", talks, *data, "--metrics", "hits", "bleu", "variety", "--json", file)
    assert outcome.status == 0, outcome.errors
    scores = json.loads(file.read_text())
    assert scores["examples"] == 3 and scores["hits_at_1_per_token"] == 100.0
    # The third context has no wrong answers.
    assert scores["metrics"]["hits_at_1_per_token"]["signature"].startswith("examples:2|")
    assert scores["hits_at_1_per_token_by_chance"] == 50.0
    assert "nrefs:var" in scores["metrics"]["bleu"]["signature"]
    # What Python's door gives is what is compared.
    run = seq2seq_jax.load(str(talks))
    right, wrong = run.score(["<a> do cows like dogs?"] * 2, ["no", "cows. cows. dogs"])
    assert right.log_probability / right.num_tokens > wrong.log_probability / wrong.num_tokens

    (tmp_path / "contexts.jsonl").write_text(f"{json.dumps(contexts[2])}\n")
    outcome = seq2seq("evaluate", talks, *data, "--metrics", "hits")
    assert outcome.status == 2 and "expected examples with wrong answers" in outcome.errors
    outcome = seq2seq("evaluate", trained, "--metrics", "hits")
    assert outcome.status == 2 and "metric hits needs adversarial, which pairs do not have" in outcome.error_line
