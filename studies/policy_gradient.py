"""python -m studies.policy_gradient: what a policy-gradient step costs, and its parts."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro
from sacrebleu.metrics import BLEU

from seq2seq_jax.batch import Batch
from seq2seq_jax.benchmark import harness, report
from seq2seq_jax.benchmark.harness import Spread, Timing
from seq2seq_jax.benchmark.training_step import TrainingStep
from seq2seq_jax.benchmark.workload import batches_of
from seq2seq_jax.experiment import Experiment, parse_command_line, to_json
from seq2seq_jax.objectives.maximum_likelihood import MODEL, MaximumLikelihoodConfig
from seq2seq_jax.objectives.objective import Turn
from seq2seq_jax.objectives.policy_gradient import PolicyGradient
from seq2seq_jax.parallel.mesh import JittedOnMesh
from seq2seq_jax.rewards.example import RewardExample
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.step import apply_gradient

PROGRAM = "python -m studies.policy_gradient"
CONFIG = "multi30k/transformer_small_self_critical"
DESCRIPTION = f"""\
Time the policy-gradient step of CONFIG (by default {CONFIG}) for several numbers of samples per source, beside a step
of maximum likelihood on the same sources, per target token; its parts (sampling, reward, update), each as a program of
its own; and the way it is usually done, with the reward computed by sacrebleu on the host between two programs. All
take turns in one process. Samples are as long as they are for the model that --init-from names. Values are those of
{{name}}.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyGradientArguments:
    """Command line of the comparison."""

    samples: tuple[int, ...] = (1, 5, 16)
    """Numbers of samples per source that are timed."""
    host_samples: int = 5
    """Number of samples per source, of those and at least 2, for which the reward is computed on the host too."""
    rounds: int = 7
    """Turns that each has (5 at least)."""
    json: str | None = None
    """File for all measurements, as JSON."""
    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """The experiment."""


class Parts:
    """A policy-gradient step, whole and in parts, on one batch.

    Attributes:
        sampled_tokens: target tokens of the samples of one step.
    """

    def __init__(self, run: TrainingRun, batch: Batch):
        self._run, self._objective = run, run.system.objective
        self._batch = run.system.place(batch)
        self._step = TrainingStep(run.system.build_update(), run.initial_state())
        self._player = run.initial_state().players[MODEL]
        self._sample = JittedOnMesh(self._sampled, run.mesh)
        self._reward = JittedOnMesh(self._rewarded, run.mesh)
        self._update = JittedOnMesh(self._updated, run.mesh)
        self._host_update = JittedOnMesh(self._updated_by_rewards, run.mesh)
        self._key = jax.random.key(0)
        self._samples = self._sample(self._player.params, self._batch, self._key)
        self._experience = JittedOnMesh(self._experienced, run.mesh)(self._player.params, self._batch, self._samples)
        self.sampled_tokens = int(jnp.sum(self._experience.rows.mask))
        self._references = [
            run.tokenizer.decode_target(row) for row in jax.device_get(self._batch.target.tokens).tolist()
        ]
        self._metric = BLEU(effective_order=True)

    def whole(self) -> None:
        """The compiled step: sampling, reward and update."""
        self._step(self._batch)

    def sampling(self) -> None:
        """Encoding and sampling alone."""
        jax.block_until_ready(self._sample(self._player.params, self._batch, self._key))

    def reward(self) -> None:
        """The rewards of given samples alone."""
        jax.block_until_ready(self._reward(self._samples.tokens, RewardExample.of(self._batch)))

    def update(self) -> None:
        """The update from given samples and rewards alone."""
        jax.block_until_ready(self._update(self._player, self._experience))

    def with_host_reward(self) -> None:
        """Two programs, and between them the samples come to the host, where sacrebleu scores their texts."""
        samples = self._sample(self._player.params, self._batch, self._key)
        decode = self._run.tokenizer.decode_target
        rewards = [
            [self._metric.sentence_score(decode(tokens), [reference]).score / 100.0 for tokens in row]
            for row, reference in zip(jax.device_get(samples.tokens).tolist(), self._references, strict=True)
        ]
        jax.block_until_ready(self._host_update(self._player, self._batch, samples, jnp.array(rewards)))

    def _memory(self, params: Any, batch: Batch) -> Any:
        model = self._objective.model
        return model.apply({"params": params}, batch.source, deterministic=True, method="encode")

    def _sampled(self, params, batch, key):
        return self._objective.draw(params, self._memory(params, batch), batch.source, rng=key)

    def _rewarded(self, tokens, example):
        return self._objective.reward(tokens, example)[0]

    def _experienced(self, params, batch, samples, objective=None):
        objective = objective or self._objective
        players = {MODEL: params}
        state = objective.initial_state(players)
        return objective.experience(players, state, batch, self._memory(params, batch), samples)[0]

    def _updated(self, player, experience):
        def loss(own):
            total, _ = self._objective.loss(
                Turn(0, MODEL), {MODEL: own}, experience, step=jnp.zeros((), jnp.int32), rng=self._key
            )
            return total.sum / total.weight

        gradient = jax.grad(loss)(player.params)
        optimizers, average_decays = self._run.system.optimizers
        return apply_gradient(player, gradient, optimizers[MODEL], average_decay=average_decays[MODEL], turns=1)

    def _updated_by_rewards(self, player, batch, samples, rewards):
        config, model = self._objective.config, self._objective.model
        objective = PolicyGradient(config, model, lambda hypotheses, example: (rewards, {}))
        return self._updated(player, self._experienced(player.params, batch, samples, objective))


def compare(
    experiment: Experiment, name: str, *, samples: tuple[int, ...], host_samples: int, rounds: int
) -> dict[str, Any]:
    """Time the steps of an experiment.

    Args:
        name: of the experiment's config.
        samples: numbers of samples per source.
        host_samples: the number for which the reward is computed on the host too.
        rounds: see `harness.take_turns`.
    """
    with tempfile.TemporaryDirectory() as directory:
        contenders: dict[tuple[str, int], Callable[[], object]] = {}
        tokens: dict[int, int] = {}
        batch = None
        for number in samples:
            objective = dataclasses.replace(experiment.objective, samples_per_source=number)
            run = TrainingRun(Path(directory), dataclasses.replace(experiment, objective=objective))
            if batch is None:
                run.begin(name)
                batch = _first_batch(run)
            parts = Parts(run, batch)
            tokens[number] = parts.sampled_tokens
            for part in ("whole", "sampling", "reward", "update"):
                contenders[part, number] = getattr(parts, part)
            if number == host_samples:
                contenders["with host reward", number] = parts.with_host_reward
        likelihood = dataclasses.replace(experiment, objective=MaximumLikelihoodConfig(label_smoothing=0.1))
        run = TrainingRun(Path(directory), likelihood)
        step = TrainingStep(run.system.build_update(), run.initial_state())
        placed = run.system.place(batch)
        contenders["maximum likelihood", 0] = lambda: step(placed)
        found = harness.take_turns(contenders, rounds=rounds, warm_up=1)
    tokens[0] = int(batch.target.mask.sum())
    return {"timings": found, "tokens": tokens, "sources": batch.source.tokens.shape[0]}


def _first_batch(run: TrainingRun) -> Batch:
    """The first batch of training whose rows are short of the longest, or the first at all."""
    with contextlib.closing(batches_of(run, 16)) as batches:
        found = list(batches)
    shorter = [batch for batch in found if batch.target.tokens.shape[1] < run.experiment.max_target_length]
    return (shorter or found)[0]


def _rows(found: dict[str, Any], samples: tuple[int, ...]) -> list[tuple[str, ...]]:
    timings: dict[tuple[str, int], Timing] = found["timings"]
    likelihood, tokens = timings["maximum likelihood", 0], found["tokens"]
    rows = [("maximum likelihood", f"{tokens[0]:,}", report.milliseconds(likelihood.spread), "", "", "", "1", "")]
    for number in samples:
        whole = timings["whole", number]
        host = timings.get(("with host reward", number))
        rows.append(
            (
                f"{number} samples per source",
                f"{tokens[number]:,}",
                report.milliseconds(whole.spread),
                *(f"{1e3 * timings[part, number].spread.median:,.0f} ms" for part in ("sampling", "reward", "update")),
                report.factor(_cost_of_a_token(found, number)),
                "" if host is None else report.factor(harness.paired_ratio(host.seconds, whole.seconds)),
            )
        )
    return rows


def _cost_of_a_token(found: dict[str, Any], samples: int) -> Spread:
    """Seconds of a sampled target token over those of one of maximum likelihood, paired by rounds."""
    timings, tokens = found["timings"], found["tokens"]
    scale = tokens[samples] / tokens[0]
    likelihood = [scale * seconds for seconds in timings["maximum likelihood", 0].seconds]
    return harness.paired_ratio(timings["whole", samples].seconds, likelihood)


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "cost_of_a_token": {
            str(number): dataclasses.asdict(_cost_of_a_token(found, number)) for number in found["tokens"] if number
        },
        "sources": found["sources"],
        "tokens": {f"{number} samples" if number else "references": count for number, count in found["tokens"].items()},
        "seconds": {
            f"{part}, {number} samples" if number else part: {
                "first_call": timing.first_call,
                "rounds": timing.seconds,
                **dataclasses.asdict(Spread.of(timing.seconds)),
            }
            for (part, number), timing in found["timings"].items()
        },
    }


def main(arguments: list[str]) -> None:
    """Parse the command line, compare, print a table.

    Raises:
        ValueError: there is no such config, or a value does not fit.
    """
    given = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    name, _, chosen = parse_command_line(
        given[0] if given else CONFIG,
        arguments[len(given) :],
        arguments=PolicyGradientArguments,
        program=f"{PROGRAM} [CONFIG]",
        description=DESCRIPTION,
    )
    experiment = chosen.experiment
    if not experiment.objective.requires_unpacked_rows:
        raise ValueError(f"{name} has no policy-gradient objective; give one that has, such as {CONFIG}.")
    if chosen.host_samples not in chosen.samples or chosen.host_samples < 2:
        raise ValueError(
            f"--host_samples must be one of --samples {' '.join(map(str, chosen.samples))} and at least 2, not "
            f"{chosen.host_samples}."
        )
    environment = harness.environment()
    found = compare(
        experiment,
        name,
        samples=chosen.samples,
        host_samples=chosen.host_samples,
        rounds=chosen.rounds,
    )
    console = report.output()
    header = ("step", "target tokens", "whole: median (quartiles)", "sampling", "reward", "update")
    header += ("cost of a token: this / maximum likelihood", "reward on the host / this")
    title = f"{name}, {found['sources']} sources, {experiment.model.precision}; {chosen.rounds} turns"
    console.print(report.table(header, _rows(found, chosen.samples), title=title))
    console.print(report.environment_line(environment))
    report.write_json({"environment": environment, "experiment": to_json(experiment), **_figures(found)}, chosen.json)


if __name__ == "__main__":
    report.run_script(main)
