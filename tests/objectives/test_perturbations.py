"""Perturbed embeddings: weight 0, gradients by finite differences, packing, directions, and what is cut off."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import VOCABULARY, parameters, transformer
from batches import batch, random_pairs

from seq2seq_jax.batch import shift_right
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.modules.embedding import EmbeddingChange, Scoring
from seq2seq_jax.modules.segments import segment_mask
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.mixture_of_experts import MixtureOfExpertsConfig
from seq2seq_jax.objectives.objective import Prepared, Turn
from seq2seq_jax.objectives.perturbations import (
    MIXED,
    PROBE,
    Cutoff,
    DoublyAdversarial,
    Fgm,
    FreeLb,
    Pass,
    Passes,
    SequenceMixup,
    Unperturbed,
    Vat,
    divergences,
    per_segment,
    within_radius,
)
from seq2seq_jax.overrides import override

PAIRS = random_pairs(np.random.default_rng(1), (5, 2, 7, 3), (4, 6, 1, 3), VOCABULARY)
PACKED = jax.tree.map(jnp.asarray, batch([[PAIRS[0], PAIRS[1]], [PAIRS[2], PAIRS[3]]], 12, 12, VOCABULARY))
UNPACKED = jax.tree.map(jnp.asarray, batch([[pair] for pair in PAIRS], 12, 12, VOCABULARY))
RNG = jax.random.key(5)
KINDS = {
    "fgm": Fgm(weight=0.7, radius=0.5),
    "free_lb": FreeLb(weight=0.7, radius=0.6, step_size=0.4, num_steps=2),
    "vat": Vat(weight=0.7, radius=0.5, probe=0.1),
    "cutoff": Cutoff(weight=0.7, rate=0.3, divergence_weight=0.5),
    "doubly_adversarial": DoublyAdversarial(weight=0.7, source_rate=1.0, target_rate=1.0, candidates=4),
    "sequence_mixup": SequenceMixup(weight=0.7, alpha=1.0),
}
DIM = 6


def small_parameters():
    """Of a model that is small enough to be differentiated in any way at once: see `run_small`."""
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "table": jax.random.normal(keys[0], (VOCABULARY.target_size, DIM)),
        "source": jax.random.normal(keys[1], (DIM, DIM)),
        "target": jax.random.normal(keys[2], (DIM, DIM)),
    }


def run_small(rows, params, change):
    """Logits from the input token and the mean of the source tokens of its segment."""

    def embedded(side, tokens):
        values = params["table"][tokens]
        return change[side].apply(values) if side in change else values

    source = jnp.tanh(embedded("source", rows.source.tokens) @ params["source"])
    same = segment_mask(rows.target.segment_ids, rows.source.segment_ids) / 5.0
    inputs = embedded("target", shift_right(rows.target, VOCABULARY.bos_id).tokens)
    hidden = jnp.tanh(inputs @ params["target"] + jnp.einsum("bts,bsd->btd", same, source))
    found = Pass(jnp.zeros(()), {}, hidden, params["table"])
    loss, logged = losses_small(found, rows.target.tokens, rows.target.mask)
    return found._replace(loss=loss, logged=logged)


def losses_small(found, labels, mask):
    scores = jax.nn.log_softmax(found.hidden @ found.table.T)
    loss = -jnp.sum(jnp.take_along_axis(scores, labels[..., None], axis=-1)[..., 0], where=mask)
    return loss, {"nll": loss}


def passes_of(rows, chunk=None):
    return Passes(
        run=lambda params, change, batch=rows: run_small(batch, params, change),
        embed=lambda params, side, tokens: params["table"][tokens], losses=losses_small,
        batch=rows, vocabulary=VOCABULARY, dims={"source": DIM, "target": DIM}, rng=RNG, scoring=Scoring("float32"),
        chunk=chunk,
    )  # fmt: skip


@functools.cache
def differentiated(kind, packed=True, chunk=None):
    """Parameters -> loss with what is logged, and its gradient."""
    passes = passes_of(PACKED if packed else UNPACKED, chunk)
    return jax.jit(jax.value_and_grad(lambda params: KINDS[kind].loss(passes, params), has_aux=True))


def close(one, other, rtol=1e-4):
    jax.tree.map(lambda *leaves: np.testing.assert_allclose(*leaves, rtol=rtol, atol=1e-4), one, other)


def added(change):
    return {side: EmbeddingChange(added=jnp.asarray(values)) for side, values in change.items()}


def sides_of(rows):
    return {"source": np.asarray(rows.source.segment_ids), "target": np.asarray(rows.target.segment_ids)}


def changed_by_hand(values, rows, change_segment):
    """What a function makes of the values of each segment of each side; 0 at padding."""
    result = {side: np.zeros((*ids.shape, DIM), np.float32) for side, ids in sides_of(rows).items()}
    for side, ids in sides_of(rows).items():
        for row, segment in {(index, int(each)) for index in range(len(ids)) for each in ids[index] if each}:
            where = ids[row] == segment
            result[side][row][where] = change_segment(np.asarray(values[side])[row][where])
    return result


@functools.cache
def changes_by_hand(kind):
    """The perturbations at the first parameters, with a loop over segments."""
    params, perturbation = small_parameters(), KINDS[kind]
    uphill = jax.jit(jax.grad(lambda change: run_small(PACKED, params, added(change)).loss))
    change = {side: np.zeros((*ids.shape, DIM), np.float32) for side, ids in sides_of(PACKED).items()}
    found, steps, step = [], 1, perturbation.radius
    if kind == "free_lb":
        steps, step = perturbation.num_steps, perturbation.step_size
    for _ in range(steps):
        unit = changed_by_hand(uphill(change), PACKED, lambda values: values / np.linalg.norm(values))
        moved = {side: change[side] + step * unit[side] for side in change}
        change = changed_by_hand(
            moved, PACKED, lambda values: values * min(1.0, perturbation.radius / np.linalg.norm(values))
        )
        found.append(added(change))
    return found


def at_fixed_changes(kind, params):
    """The loss with perturbations that are no functions of the parameters."""
    changes = changes_by_hand(kind)
    losses = [run_small(PACKED, params, change).loss for change in changes]
    return run_small(PACKED, params, {}).loss + KINDS[kind].weight * sum(losses) / len(losses)


@pytest.mark.parametrize("kind", ["fgm", "free_lb"])
def test_adversarial_losses_and_gradients_are_those_of_explicit_passes(kind):
    params = small_parameters()
    expected, expected_gradient = jax.value_and_grad(functools.partial(at_fixed_changes, kind))(params)
    (loss, logged), gradient = differentiated(kind)(params)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert logged["nll"] == pytest.approx(float(run_small(PACKED, params, {}).loss), rel=1e-6)
    assert logged["adversarial_nll"] > 1.02 * logged["nll"]
    close(gradient, expected_gradient)


def slope_of(loss, params, along, step=1e-3):
    moved = [loss(jax.tree.map(lambda leaf, d, sign=sign: leaf + sign * step * d, params, along)) for sign in (1, -1)]
    return float(moved[0] - moved[1]) / (2 * step)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    """Neither an adversarial perturbation nor what VAT compares with is differentiated (Miyato et al. 2017, section 3),
    so that both stay fixed here.
    """
    params = small_parameters()
    along = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    packed = kind != "sequence_mixup"
    gradient = differentiated(kind, packed)(params)[1]
    slope = sum(jax.tree.leaves(jax.tree.map(lambda one, other: float(jnp.vdot(one, other)), gradient, along)))
    if kind in ("cutoff", "sequence_mixup"):
        expected = slope_of(lambda own: differentiated(kind, packed)(own)[0][0], params, along)
    elif kind == "doubly_adversarial":
        expected = slope_of(functools.partial(at_fixed_words, words_by_hand(params)), params, along)
    elif kind == "vat":
        fixed = run_small(PACKED, params, {})
        change = added(direction_of_vat(params))

        def loss(own):
            moved = passes_of(PACKED).divergence(fixed, run_small(PACKED, own, change), symmetric=False)
            return run_small(PACKED, own, {}).loss + KINDS[kind].weight * moved

        expected = slope_of(loss, params, along)
        assert float(loss(params)) == pytest.approx(float(differentiated(kind)(params)[0][0]), rel=1e-5)
    else:
        expected = slope_of(functools.partial(at_fixed_changes, kind), params, along)
    assert slope == pytest.approx(expected, rel=1e-2)


def words_by_hand(params):
    """The source and the inputs of the decoder with all words replaced, one by one."""
    table = np.asarray(params["table"])
    clean = run_small(PACKED, params, {})
    zeros = {side: np.zeros((*ids.shape, DIM), np.float32) for side, ids in sides_of(PACKED).items()}
    uphill = jax.grad(lambda change: run_small(PACKED, params, added(change)).loss)(zeros)
    never = {VOCABULARY.eos_id, *VOCABULARY.suppressed_ids}
    found = passes_of(PACKED).inputs(PACKED)
    found = {side: np.array(tokens) for side, tokens in found.items()}
    for side, rows in {"source": PACKED.source, "target": PACKED.target}.items():
        old = found[side].copy()
        for row, place in np.argwhere(np.asarray(rows.mask)):
            token = old[row, place]
            if token in never or (side == "target" and rows.positions[row, place] == 0):
                continue
            if side == "source":
                likeness = table @ table[token] / np.linalg.norm(table, axis=1)
            else:
                likeness = table @ np.asarray(clean.hidden)[row, place - 1]
            words = [word for word in np.argsort(-likeness) if word not in never and word != token][:4]
            moves = [table[word] - table[token] for word in words]
            cosines = [move @ np.asarray(uphill[side])[row, place] / np.linalg.norm(move) for move in moves]
            found[side][row, place] = words[int(np.argmax(cosines))]
    return found


def at_fixed_words(words, params):
    """The loss with words that are no functions of the parameters."""
    old, table = passes_of(PACKED).inputs(PACKED), params["table"]
    change = added({side: table[words[side]] - table[old[side]] for side in words})
    return run_small(PACKED, params, {}).loss + 0.7 * run_small(PACKED, params, change).loss


def test_words_are_replaced_by_the_candidates_along_the_gradient():
    params = small_parameters()
    words, old = words_by_hand(params), passes_of(PACKED).inputs(PACKED)
    assert all(np.sum(words[side] != old[side]) >= 8 for side in words)
    (loss, logged), gradient = differentiated("doubly_adversarial")(params)
    expected, expected_gradient = jax.value_and_grad(functools.partial(at_fixed_words, words))(params)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert logged["adversarial_nll"] > 1.02 * logged["nll"]
    close(gradient, expected_gradient)
    never = dataclasses.replace(KINDS["doubly_adversarial"], source_rate=0.0, target_rate=0.0)
    assert float(never.loss(passes_of(PACKED), params)[0]) == pytest.approx(1.7 * float(logged["nll"]), rel=1e-5)


def test_mixtures_of_rows_by_hand():
    """Row by row, with embeddings that are 0 where a text has ended."""
    params = {name: np.asarray(values) for name, values in small_parameters().items()}
    keys = jax.random.split(jax.random.fold_in(RNG, MIXED))
    share, shift = float(jax.random.beta(keys[0], 1.0, 1.0)), int(jax.random.randint(keys[1], (), 1, len(PAIRS)))
    assert 0.05 < share < 0.95

    def embedded(tokens, length):
        found = np.zeros((length, DIM))
        found[: len(tokens)] = params["table"][list(tokens)]
        return found

    total = 0.0
    for row, (source, target) in enumerate(PAIRS):
        pair = (source, target), PAIRS[(row - shift) % len(PAIRS)]
        weights, hidden = (share, 1.0 - share), 0.0
        lengths = [max(len(each[side]) for each in pair) for side in (0, 1)]
        states = sum(weight * embedded(each[0], lengths[0]) for weight, each in zip(weights, pair, strict=True))
        inputs = sum(
            weight * embedded([VOCABULARY.bos_id, *each[1][:-1]], lengths[1])
            for weight, each in zip(weights, pair, strict=True)
        )
        hidden = np.tanh(inputs @ params["target"] + np.tanh(states @ params["source"]).sum(axis=0) / 5.0)
        scores = hidden @ params["table"].T
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        for weight, (_, labels) in zip(weights, pair, strict=True):
            total -= weight * sum(scores[place, label] for place, label in enumerate(labels))
    (loss, logged), _ = differentiated("sequence_mixup", packed=False)(small_parameters())
    assert float(logged["mixed_nll"]) == pytest.approx(total, rel=1e-5)
    assert float(loss) == pytest.approx(float(logged["nll"]) + 0.7 * total, rel=1e-5)


def direction_of_vat(params):
    """The perturbation of VAT: one power iteration from what its key draws."""
    passes, perturbation = passes_of(PACKED), KINDS["vat"]
    fixed = run_small(PACKED, params, {})
    keys = jax.random.split(jax.random.fold_in(RNG, PROBE))
    drawn = {
        side: jax.random.normal(key, (*ids.shape, DIM))
        for key, (side, ids) in zip(keys, sides_of(PACKED).items(), strict=True)
    }
    probe = changed_by_hand(drawn, PACKED, lambda values: perturbation.probe * values / np.linalg.norm(values))
    uphill = jax.grad(
        lambda change: passes.divergence(fixed, run_small(PACKED, params, added(change)), symmetric=False)
    )(probe)
    return changed_by_hand(uphill, PACKED, lambda values: perturbation.radius * values / np.linalg.norm(values))


def test_virtual_adversarial_training_finds_where_the_distribution_changes_more_than_anywhere():
    params = small_parameters()
    passes, fixed = passes_of(PACKED), run_small(PACKED, params, {})
    (_, logged), _ = differentiated("vat")(params)

    @jax.jit
    def random_divergence(key):
        drawn = {side: jax.random.normal(key, (*ids.shape, DIM)) for side, ids in sides_of(PACKED).items()}
        change = passes.normalised(drawn, KINDS["vat"].radius)
        return passes.divergence(fixed, run_small(PACKED, params, added(change)), symmetric=False)

    others = [float(random_divergence(jax.random.key(number))) for number in range(100)]
    assert logged["divergence"] > 1.5 * np.mean(others) and logged["divergence"] > max(others)


@pytest.mark.parametrize("kind", ["fgm", "free_lb"])
def test_packed_rows_have_the_losses_of_unpacked_ones(kind):
    params = small_parameters()
    (loss, logged), gradient = differentiated(kind)(params)
    (unpacked, logged_too), gradient_too = differentiated(kind, packed=False)(params)
    assert float(loss) == pytest.approx(float(unpacked), rel=1e-5)
    assert logged["adversarial_nll"] == pytest.approx(float(logged_too["adversarial_nll"]), rel=1e-5)
    close(gradient, gradient_too)


@pytest.mark.parametrize("kind", ["vat", "cutoff"])
def test_chunks_of_the_vocabulary_change_nothing(kind):
    params = small_parameters()
    (loss, logged), gradient = differentiated(kind)(params)
    (chunked, logged_too), gradient_too = differentiated(kind, chunk=4)(params)
    assert float(loss) == pytest.approx(float(chunked), rel=1e-5)
    close((logged, gradient), (logged_too, gradient_too))


def test_divergences_by_hand():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    hidden = [jnp.log(jnp.array([[each, each]])) for each in (p, q)]
    passes = [Pass(jnp.zeros(()), {}, each, jnp.eye(3)) for each in hidden]
    mask = jnp.array([[True, False]])
    settings = {"scoring": Scoring("float32"), "chunk": None}
    one, other = np.sum(p * np.log(p / q)), np.sum(q * np.log(q / p))
    assert float(divergences(*passes, mask, symmetric=False, **settings)) == pytest.approx(one, rel=1e-5)
    assert float(divergences(*passes, mask, symmetric=True, **settings)) == pytest.approx((one + other) / 2, rel=1e-5)


@functools.cache
def model(dropout=0.3):
    settings = {"dropout": dropout, "attention_dropout": dropout, "hidden_dropout": dropout}
    built = transformer(scan_layers=True, **settings).build(VOCABULARY)
    return built, parameters(built)


@functools.cache
def program(kind, **settings):
    """The loss of the model as a program, in words; and the names of what is logged."""
    objective = MaximumLikelihoodConfig(**settings).build(model()[0])
    rng = {"dropout": RNG, "evaluation": None}[kind]

    def loss_of(params, rows):
        loss, logged = objective.loss(
            Turn(0, "model"), {"model": params}, Prepared(rows=rows), step=jnp.int32(0), rng=rng
        )
        return loss.sum / loss.weight, logged

    traced, shapes = jax.make_jaxpr(loss_of, return_shape=True)(model()[1], PACKED)
    return re.sub(r"0x[0-9a-f]+", "", str(traced)), set(shapes[1])


@pytest.mark.parametrize("kind", KINDS)
def test_with_weight_0_and_in_evaluation_it_is_the_program_of_maximum_likelihood(kind):
    settings = {"divergence_weight": 0.0} if kind == "cutoff" else {}
    off = dataclasses.replace(KINDS[kind], weight=0.0, **settings)
    assert program("dropout", perturbation=off) == program("dropout")
    if kind == "fgm":
        assert program("evaluation", perturbation=KINDS[kind]) == program("evaluation")
    if kind == "free_lb":
        # Several steps of what fgm does.
        return
    perturbed, logged = program("dropout", perturbation=KINDS[kind])
    assert perturbed != program("dropout")[0]
    names = {"vat": {"divergence"}, "cutoff": {"divergence", "cut_nll"}, "sequence_mixup": {"mixed_nll"}}.get(
        kind, {"adversarial_nll"}
    )
    assert logged == {"nll"} | names
    # With R-Drop, too.
    if kind == "fgm":
        assert program("dropout", perturbation=KINDS[kind], r_drop_weight=1.0)[1] == {"nll", "divergence"} | names


@pytest.mark.long
def test_the_adversarial_direction_raises_the_loss_of_the_model_more_than_a_random_one():
    """On 95% of 1,000 pairs, a row each."""
    built, params = model()
    rng = np.random.default_rng(3)
    pairs = random_pairs(rng, rng.integers(2, 8, 1000), rng.integers(2, 8, 1000), VOCABULARY)
    rows = jax.tree.map(jnp.asarray, batch([[pair] for pair in pairs], 8, 8, VOCABULARY))
    sides = {"source": rows.source.segment_ids, "target": rows.target.segment_ids}
    zeros = {side: jnp.zeros((*ids.shape, built.config.encoder.model_dim)) for side, ids in sides.items()}
    apply = functools.partial(built.apply, {"params": params}, deterministic=True)

    def losses(change):
        memory = apply(rows.source, change=EmbeddingChange(added=change["source"]), method="encode")
        hidden = apply(rows.target, memory, change=EmbeddingChange(added=change["target"]), method="decode")
        scores = jax.nn.log_softmax(hidden @ built.apply({"params": params}, method="output_table").T)
        found = jnp.take_along_axis(scores, rows.target.tokens[..., None], axis=-1)[..., 0]
        return -jnp.sum(found, axis=-1, where=rows.target.mask)

    @jax.jit
    def compared():
        keys = dict(zip(sides, jax.random.split(jax.random.key(0)), strict=True))
        gradient = jax.grad(lambda change: jnp.sum(losses(change)))(zeros)
        drawn = {side: jax.random.normal(keys[side], zeros[side].shape) for side in sides}
        return [
            losses({side: 0.5 * per_segment(each[side], ids) for side, ids in sides.items()})
            for each in (gradient, drawn)
        ]

    adversarial, random = map(np.asarray, compared())
    assert np.mean(adversarial > random) >= 0.95


def test_norms_are_those_of_segments():
    ids = jnp.array([[1, 1, 2, 2, 2, 0]])
    values = jnp.array([[[3.0], [4.0], [1.0], [2.0], [2.0], [9.0]]])
    np.testing.assert_allclose(per_segment(values, ids)[0, :, 0], [0.6, 0.8, 1 / 3, 2 / 3, 2 / 3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(
        within_radius(values.at[0, 5].set(0.0), ids, 4.0)[0, :, 0], [2.4, 3.2, 1.0, 2.0, 2.0, 0.0], rtol=1e-6
    )
    # A side without a gradient stays where it is.
    assert not per_segment(jnp.zeros((1, 6, 2)), ids).any()


def test_what_cutoff_cuts_off():
    ids = jnp.tile(jnp.array([[1] * 10 + [2] * 20 + [0] * 2]), (400, 1))
    tokens = Cutoff(rate=0.3).cut(RNG, ids, dim=8)
    assert tokens.shape == (400, 32, 1) and abs(float(tokens.mean()) - 0.3) < 3 * (0.21 / tokens.size) ** 0.5
    features = Cutoff(rate=0.3, kind="feature").cut(RNG, ids, dim=8)
    assert features.shape == (400, 1, 8) and 0.2 < float(features.mean()) < 0.4
    spans = np.asarray(Cutoff(rate=0.3, kind="span").cut(RNG, ids, dim=8))[..., 0]
    assert (spans[:, :10].sum(axis=1) == 3).all() and (spans[:, 10:30].sum(axis=1) == 6).all()
    # One run of each, anywhere.
    assert (np.abs(np.diff(spans[:, :10].astype(int), axis=1, prepend=0, append=0)).sum(axis=1) == 2).all()
    assert {int(np.argmax(row)) for row in spans[:, :10]} == set(range(8))


def test_passes_count_as_work_and_mistakes_are_one_line():
    built = model()[0]
    once = MaximumLikelihoodConfig().build(built).pair_flops(7, 9)
    for kind, passes in (("fgm", 2), ("free_lb", 3), ("vat", 3), ("cutoff", 2), ("sequence_mixup", 2)):
        assert MaximumLikelihoodConfig(perturbation=KINDS[kind]).build(built).pair_flops(7, 9) == passes * once
    for make, message in (
        (lambda: Fgm(weight=-1.0), "weight must not be negative"),
        (lambda: Fgm(radius=0.0), "radius must be above 0"),
        (lambda: FreeLb(num_steps=0), "num_steps must be at least 1"),
        (lambda: Cutoff(rate=1.0), r"rate must lie in \(0, 1\)"),
        (lambda: DoublyAdversarial(source_rate=1.5), r"source_rate must lie in \[0, 1\]"),
        (lambda: DoublyAdversarial(candidates=0), "candidates must be at least 1"),
        (lambda: SequenceMixup(alpha=0.0), "alpha must be above 0"),
        (lambda: MaximumLikelihoodConfig(perturbation=SequenceMixup(), r_drop_weight=1.0), "Set objective.r_drop"),
        (
            lambda: MaximumLikelihoodConfig(
                perturbation=DoublyAdversarial(),
                sampling_schedule="linear",
                sampling_limit=0.5,
                sampling_steps=9,
                sampling_choice="sample",
            ),
            "DoublyAdversarial changes decoder inputs",
        ),
        (
            lambda: dataclasses.replace(
                load_config_by_name("multi30k/transformer_small"),
                objective=MaximumLikelihoodConfig(perturbation=SequenceMixup()),
            ),
            "a row must hold one example. Set data.packing to False",
        ),
        (lambda: MixtureOfExpertsConfig(perturbation=Fgm()), "Fgm is not supported with a mixture of experts"),
        (
            lambda: MaximumLikelihoodConfig(perturbation=Vat()).check(
                load_config_by_name("aeslc/pointer_generator").model, accumulation=1
            ),
            "Vat is not supported with model.copying",
        ),
        (
            lambda: MaximumLikelihoodConfig(perturbation=Fgm()).check(
                load_config_by_name("spoken_digits/transformer_ctc").model, accumulation=1
            ),
            "Fgm changes embeddings, and sources of model.front_end have none",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_the_command_line_chooses_one():
    config = load_config_by_name("dates/transformer")
    assert config.objective.perturbation == Unperturbed()
    chosen = override(
        config, ["--objective.perturbation", "fgm", "--objective.perturbation.radius", "2.5"], program="x"
    )
    assert chosen.objective.perturbation == Fgm(weight=1.0, radius=2.5)
