"""Every config of this project: it loads, says what it is, comes back from JSON, and its model can be built."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from devices import hosts

from seq2seq_jax.batch import Batch, FrameRows, TokenRows, Vocabulary, one_token_batch
from seq2seq_jax.data.batch_format import row_shapes
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.experiment import Experiment, config_name, differences, find_config, from_json, load_config, to_json
from seq2seq_jax.objectives.objective import Turn
from seq2seq_jax.run.system import check_mesh

CONFIGS = {config_name(path): path for path in sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*/*.py"))}
LETTERS = Tokenizer.train([("abc", "cba")], TokenizerConfig(kind="char", vocabulary_size=8, byte_fallback=False))
SMALLEST = 280
"""Ids that every tokenizer has at least."""
CHIPS = {
    "wmt14_de_en/transformer_big_8_chips": 8,
    "wmt14_de_en/transformer_big_64_chips": 64,
    "wmt14_de_en/transformer_big_512_chips": 512,
    "c4_span_corruption/t5_large": 512,
    "c4_span_corruption/t5_3b": 512,
    "c4_span_corruption/t5_11b": 512,
    "own_text/flan_t5_xl": 16,
    "own_text/nllb_3b": 16,
    "own_text/mt5_xxl": 64,
}
"""Numbers of chips on which configs for many shall run as they are."""


@pytest.fixture(params=CONFIGS)
def loaded(request):
    return *load_config(CONFIGS[request.param]), request.param


def test_there_are_configs():
    assert {"dates/transformer", "multi30k/transformer_small"} <= set(CONFIGS)


def test_a_config_is_found_by_name_and_says_what_it_is(loaded):
    experiment, description, name = loaded
    assert find_config(name) == CONFIGS[name]
    assert isinstance(experiment, Experiment)
    assert len(description.split()) > 5


def test_a_config_comes_back_from_json(loaded):
    experiment, _, _ = loaded
    assert from_json(Experiment, to_json(experiment)) == experiment
    assert differences(from_json(Experiment, to_json(experiment)), experiment) == {}


def test_text_is_normalised_where_scores_were_measured_so(loaded):
    experiment, _, name = loaded
    own = name.partition("/")[0].startswith("own_")
    assert experiment.tokenizer.normalization == ("identity" if own else "nfkc")


def test_the_parts_of_a_config_fit(loaded):
    experiment, _, _ = loaded
    steps = experiment.training.steps
    assert experiment.optimizer.warmup_steps < steps
    assert experiment.training.evaluate_every <= steps
    shapes = row_shapes(experiment.batch_format, experiment.training.target_tokens_per_batch)
    assert shapes[-1].rows == experiment.rows_per_batch
    check_mesh(experiment, experiment.mesh.build(jax.devices()[:1]))
    schedule = experiment.optimizer.learning_rate_schedule(steps)
    rates = [float(schedule(count)) for count in (0, experiment.optimizer.warmup_steps, steps - 1)]
    assert 0 < rates[0] < rates[1] == pytest.approx(experiment.optimizer.learning_rate, rel=0.01)
    assert 0 <= rates[2] <= rates[1]


def frames_of(model, length):
    """Two rows of sources of a model with a front end."""
    values, *_ = jax.tree.leaves(model.smallest_batch.source)
    ids = jnp.ones((2, length), jnp.int32)
    counts = ids * values.shape[2]
    return FrameRows(
        values=jnp.zeros((2, length, *values.shape[2:]), values.dtype), counts=counts, segment_ids=ids, positions=ids
    )


@pytest.mark.long
def test_the_model_of_a_config_can_be_built(loaded):
    """By shapes alone, which costs nothing however large it is."""
    experiment, _, _ = loaded
    size = max(experiment.tokenizer.vocabulary_size or 0, SMALLEST)
    vocabulary = Vocabulary(
        source_size=size, target_size=size, joint=experiment.tokenizer.joint, pad_id=0, bos_id=2, eos_id=3
    )
    model = experiment.model.build(vocabulary)
    rows = jnp.ones((2, experiment.max_target_length), jnp.int32)
    sequence = TokenRows(tokens=rows, segment_ids=rows, positions=rows)
    source = sequence if experiment.model.front_end is None else frames_of(model, 16)
    batch = Batch(source=source, target=sequence)
    key = jax.random.key(0)
    objective = experiment.objective.build(model, LETTERS)
    players = {player.name: nn.meta.unbox(jax.eval_shape(player.initialize, key)) for player in objective.players}
    params = players["model"]
    logits = jax.eval_shape(lambda params: model.apply({"params": params}, batch), params)
    assert logits.shape == (*rows.shape, size)

    def first_loss(players, batch):
        state = objective.initial_state(players)
        prepared, _ = objective.prepare(players, state, batch, step=jnp.int32(0), rng=key)
        return objective.loss(Turn(0, "model"), players, prepared, step=jnp.int32(0), rng=key)

    loss, _ = jax.eval_shape(first_loss, players, batch)
    _, evaluated = jax.eval_shape(objective.evaluate, players, batch)
    assert loss.sum.shape == () and "nll" in evaluated
    jax.eval_shape(experiment.optimizer.build(experiment.training.steps).init, params)


@pytest.mark.parametrize("name", CHIPS)
def test_configs_for_many_chips_fit_them(name):
    experiment, _ = load_config(CONFIGS[name])
    mesh = experiment.mesh.build(hosts(1, CHIPS[name]))
    assert mesh.devices.size == CHIPS[name]
    check_mesh(experiment, mesh)


@pytest.mark.parametrize(("name", "millions"), [("t5_large", 737.7), ("t5_3b", 2851.6), ("t5_11b", 11307.3)])
def test_the_models_of_t5_have_their_published_sizes(name, millions):
    """Within a part in a thousand: the feed-forward layers of this project have biases."""
    experiment = load_config(CONFIGS[f"c4_span_corruption/{name}"])[0]
    assert (experiment.task.chunk_length(experiment.data), experiment.max_target_length) == (568, 114)
    size = experiment.tokenizer.vocabulary_size
    vocabulary = Vocabulary(source_size=size, target_size=size, joint=True, pad_id=0, bos_id=2, eos_id=3)
    model = experiment.model.build(vocabulary)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), one_token_batch())["params"])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize(("name", "millions"), [("flan_t5_xl", 2849.8), ("nllb_3b", 3345.0), ("mt5_xxl", 12921.1)])
def test_architectures_of_pretrained_models_have_their_published_sizes(name, millions):
    """All parameters are those of the released models, but for rows that pad the vocabulary."""
    experiment = load_config(CONFIGS[f"own_text/{name}"])[0]
    size = experiment.tokenizer.vocabulary_size
    vocabulary = Vocabulary(source_size=size, target_size=size, joint=True, pad_id=0, bos_id=2, eos_id=3)
    model = experiment.model.build(vocabulary)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), one_token_batch())["params"])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, abs=0.2)
