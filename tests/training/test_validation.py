"""What validation asks of a model, and what is kept of it."""

import dataclasses

import numpy as np
import pytest

from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.pipeline import EvaluationBatches
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.evaluation.metric import ROLLED, Candidate, Evaluated, Metric, Score
from seq2seq_jax.evaluation.metrics.exact_match import ExactMatch
from seq2seq_jax.evaluation.metrics.hits import Hits
from seq2seq_jax.evaluation.metrics.perplexity import Perplexity
from seq2seq_jax.generation.generator import Generator, Hypothesis
from seq2seq_jax.generation.scorer import PairScore, Scorer
from seq2seq_jax.generation.sources import SourceEncoder
from seq2seq_jax.objectives.objective import Count, WeightedSum
from seq2seq_jax.tasks.task import Rollout
from seq2seq_jax.training.validation import Sources, Validation, ValidationResult, validated

EOS = 3


class Batches(EvaluationBatches):
    """Batches of a set of four examples, of which index 2 is too long for a row and index 3 is cut to one."""

    num_examples = 4
    too_long = np.array([2])
    cut = np.array([3])

    def __init__(self):
        pass

    def __iter__(self):
        return iter([("first", None), ("second", None)])


class IdsAlone(SourceEncoder):
    """Cuts ids; there is no text to encode."""

    def __init__(self, source):
        super().__init__(object.__new__(Tokenizer), source)


class Echo(Generator):
    """A generator whose text is the ids of a source; it takes three of them."""

    def __init__(self, *, truncate):
        self.sources = IdsAlone(Tokens(max_length=3, truncate="right" if truncate else None))
        self.calls = []

    def generate_from_ids(self, params, sources, *, blank, controls, progress):
        self.calls.append((params, sources, blank))
        texts = ["" if index in blank else " ".join(map(str, ids)) for index, ids in enumerate(sources)]
        return [[Hypothesis(text=text, score=0.0, log_probability=0.0, num_tokens=1)] for text in texts]


SOURCES = Sources(
    ids=[[5, EOS], [EOS], [5, 6, 7, EOS], [8, EOS]],
    examples=[
        {"source": "five", "target": "5 3"}, {"source": " \u200b", "target": ""},
        {"source": "five six seven", "target": ["5 6 3", "one two"]}, {"source": "eight", "target": "8 3 and more"},
    ],
    counted_target=lambda index: f"cut {index}",
    rollout=lambda: None,
)  # fmt: skip


PLAYERS = {"critic": "others", "model": "params"}
"""Parameters: the loss takes those of all players, generation those of the model."""


def losses(params, batch):
    assert params == PLAYERS
    nll, tokens = {"first": (6.0, 4.0), "second": (3.0, 2.0)}[batch]
    nothing = np.float32(0.0)
    return {
        "loss": WeightedSum(np.float32(2 * nll), np.float32(tokens)),
        "nll": WeightedSum(np.float32(nll), np.float32(tokens)),
        # Of a player that has nothing to say of the first batch, and of another that counts.
        "guess": WeightedSum(np.float32(8.0), np.float32(2.0)) if batch == "second" else WeightedSum(nothing, nothing),
        "pairs": Count(np.int32(tokens)),
    }


def validation(sources=SOURCES, *, metrics, generator=None, scorer=None):
    return Validation(
        Batches(), sources, metrics=metrics, player="model", compute_loss=losses, place=lambda batch: batch,
        generator=generator or Echo(truncate=False), scorer=lambda: scorer,
    )  # fmt: skip


@pytest.mark.parametrize(("truncate", "texts"), [(False, ["5 3", "", "", "8 3"]), (True, ["5 3", "", "5 6 3", "8 3"])])
def test_texts_are_generated_from_the_ids_of_the_store(truncate, texts):
    generator = Echo(truncate=truncate)
    result = validation(metrics=[ExactMatch()], generator=generator)(PLAYERS)
    assert result.outputs == texts
    # The second, a blank text, and with truncation the third, against its first reference.
    assert result.scores["exact_match"].value == (75.0 if truncate else 50.0)
    [(params, sources, blank)] = generator.calls
    assert (params, blank) == ("params", {1}) and sources[0] == [5, EOS] and len(sources) == (4 if truncate else 3)
    counts = (
        result.skipped_losses,
        result.skipped_sources,
        result.cut_losses,
        result.cut_sources,
        result.blank_sources,
    )
    assert counts == ((1, 0, 1, 1, 1) if truncate else (1, 1, 1, 0, 1))
    assert result.losses == {"loss": 3.0, "nll": 1.5, "guess": 4.0, "pairs": 6}


class Letters(Scorer):
    """Scores a target by its letters, -1 for each and for its end; of what begins with an x a side is too long."""

    def __init__(self):
        pass

    def too_long(self, sources, targets):
        return {index for index, target in enumerate(targets) if target.startswith("x")}

    def score(self, params, sources, targets, *, progress=None):
        assert params == "params" and sources == [f"to {target[0]}" for target in targets]
        scores = [np.full(len(target) + 1, -1.0, np.float32) for target in targets]
        return [PairScore(*each[:2], [], each[2]) for each in zip(sources, targets, scores, strict=True)]


def test_right_and_wrong_answers_are_scored_with_their_sources():
    examples = [
        {"source": "to a", "target": ["ab", "abc"], "adversarial": ["a", "abcd"]},
        {"source": "to b", "target": "b", "adversarial": []},
        {"source": "to x", "target": "b", "adversarial": ["xy"]},
        {"source": "to c", "target": "c", "adversarial": ["cd"]},
    ]
    sources = Sources(ids=[[5, EOS]] * 4, examples=examples, counted_target=str, rollout=lambda: None)
    result = validation(sources, metrics=[Hits(per="text")], scorer=Letters())(PLAYERS)
    assert result.hypotheses is None
    assert result.evaluated.candidates == [
        [Candidate(-3, 3, True), Candidate(-4, 4, True), Candidate(-2, 2, False), Candidate(-5, 5, False)],
        [],
        [],
        [Candidate(-2, 2, True), Candidate(-3, 3, False)],
    ]
    # Of the three right answers the last alone is better than all wrong ones.
    assert result.scores["hits_at_1_per_text"].value == pytest.approx(100 / 3)


def test_a_validation_of_the_loss_alone_needs_no_examples():
    generator = Echo(truncate=False)
    result = validation(None, metrics=[Perplexity()], generator=generator)(PLAYERS)
    assert not generator.calls and result.hypotheses is None and result.outputs == []
    assert result.scores["perplexity_per_token"].value == pytest.approx(np.exp(9 / 6))
    assert result.record()["perplexity_per_token"] == result.scores["perplexity_per_token"].value
    empty = validation(None, metrics=[], generator=generator)(PLAYERS)
    assert empty.record() == {"loss": 3.0, "nll": 1.5, "guess": 4.0, "pairs": 6}
    # Texts that a file is asked for are generated all the same.
    assert validation(metrics=[], generator=generator)(PLAYERS, generates=True).outputs[0] == "5 3"


def test_words_are_those_of_the_tokens_that_are_counted():
    """Without the example that is too long, and of the one that is cut the words of its row."""
    found = validation(metrics=[Perplexity(per="word")])(PLAYERS).scores["perplexity_per_word"]
    assert found.value == pytest.approx(np.exp(9 / len("5 3 cut 3".split())))


class Chain(Rollout):
    """Two rounds; the source of the second is what the first example has led to."""

    results = ()

    def __init__(self):
        self.results = [None] * 4
        self.rounds = [[0, 3], [1]]

    def next_sources(self):
        return [(index, self.results[0] or f"start {index}") for index in self.rounds[0]] if self.rounds else []

    def take(self, outputs):
        for index, output in zip(self.rounds.pop(0), outputs, strict=True):
            self.results[index] = output


class Shout(Echo):
    """A generator whose text is the source's in capitals."""

    def __init__(self):
        super().__init__(truncate=False)
        self.sources.fit = lambda texts, *, too_long, lines: self.calls.append((texts, too_long, lines)) or texts

    def generate_fitted(self, params, sources, *, shapes_of):
        assert params == "params" and shapes_of == 2
        return [[Hypothesis(text=text.upper(), score=0.0, log_probability=0.0, num_tokens=1)] for text in sources]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rolled(Metric):
    name = "rolled"
    names = ("rolled",)
    needs = frozenset({ROLLED})

    def scores(self, evaluated):
        assert evaluated.rolled == ["START 0", "START 0", None, "START 3"]
        return {"rolled": Score(value=1.0, unit="", higher_is_better=True, signature="s", label="l")}


def test_outputs_are_rolled_through_examples_that_follow_each_other():
    generator = Shout()
    found = validation(dataclasses.replace(SOURCES, rollout=Chain), metrics=[Rolled()], generator=generator)(PLAYERS)
    assert found.scores["rolled"].value == 1.0 and found.hypotheses is None
    # A source that has grown too long is cut; draws depend on the example's place in the set.
    assert generator.calls == [(["start 0", "start 3"], "truncate", [1, 4]), (["START 0"], "truncate", [2])]
    assert found.evaluated.part([1, 2]).rolled == ["START 0", None]


def result(loss, **scores):
    described = {
        name: Score(value=value, unit="percent", higher_is_better=name != "wer", signature="s", label=name.upper())
        for name, value in scores.items()
    }
    return ValidationResult(
        examples=1, losses={"loss": loss}, scores=described, evaluated=Evaluated(None, None), hypotheses=[],
        skipped_losses=0, skipped_sources=0, cut_losses=0, cut_sources=0, blank_sources=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("select_by", "score"),
    [("loss", -2.0), ("bleu", 30.0), ("wer", -40.0), ("news/bleu", 10.0), ("news/wer", -70.0), ("news/loss", -5.0)],
)
def test_checkpoints_are_compared_by_the_score_that_is_named(select_by, score):
    results = {"validation": result(2.0, bleu=30.0, wer=40.0), "news": result(5.0, bleu=10.0, wer=70.0)}
    found = validated(results, select_by)
    assert (found.score, found.loss) == (score, 2.0)
    facts = {"unit": "percent", "higher_is_better": True, "signature": "s", "label": "BLEU"}
    assert [record["set"] for record in found.records] == ["validation", "news"]
    assert found.records[1]["bleu"] == 10.0 and found.records[1]["metrics"]["bleu"] == facts


def test_the_record_of_a_single_set_has_no_name():
    [record] = validated({"validation": result(2.0, bleu=30.0)}, "bleu").records
    assert record.keys() == {"loss", "bleu", "metrics"}
