"""Mixtures: every example as often as its part's weight says, in every epoch; tags; validation by part; mistakes."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest

from seq2seq_jax.data.augmentation import AugmentationConfig, NoiseConfig
from seq2seq_jax.data.mixing import Mixing
from seq2seq_jax.data.mixture import Mixture, Part
from seq2seq_jax.data.pipeline import evaluation_batches, training_batches
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.summary import parts_of
from seq2seq_jax.data.text_files import DocumentFiles, ParallelText
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.effects import effects
from seq2seq_jax.experiment import Experiment, differences, flatten, from_json, load_config_by_name, to_json
from seq2seq_jax.overrides import override
from seq2seq_jax.tasks.translation import Translation

SIZES = {"real": 90, "synthetic": 40}
LETTERS = "abcdefghij"


def spelt(number):
    return "".join(LETTERS[int(digit)] for digit in str(number))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Texts that say which part and example they are: "r bc" translates to "R bc"."""
    directory = tmp_path_factory.mktemp("mixture")
    for name, size in SIZES.items():
        for split, number in (("train", size), ("val", 5)):
            lines = [f"{name[0]} {spelt(index)} {'z ' * (index % 5)}y" for index in range(number)]
            (directory / f"{name}.{split}.src").write_text("\n".join(lines) + "\n")
            (directory / f"{name}.{split}.tgt").write_text("\n".join(lines).replace(name[0], name[0].upper()) + "\n")
    (directory / "documents.txt").write_text("".join(f"d {spelt(index)}\n" for index in range(20)))
    return directory


def source_of(directory, name, **settings):
    settings = {"train": f"{name}.train", "validation": f"{name}.val", "test": None} | settings
    return ParallelText(directory=str(directory), source="src", target="tgt", **settings)


def mixture(directory, real=(1.0,), synthetic=(1.0,), **settings):
    parts = (
        Part(name="real", source=source_of(directory, "real"), weights=real),
        Part(name="synthetic", source=source_of(directory, "synthetic"), weights=synthetic, tag="<bt>"),
    )
    return Mixture(**({"parts": parts, "max_source_length": 48, "max_target_length": 48, "window": 60} | settings))


@pytest.fixture(scope="module")
def tokenizer(directory):
    data = mixture(directory)
    config = TokenizerConfig(vocabulary_size=310, special_tokens=data.special_tokens())
    return Tokenizer.train(data.open(["train"]).read("train", ["source", "target"]), config)


def store_of(directory, data, tokenizer, split="train"):
    columns = Translation().columns(data)
    return Store.open_or_build(directory / "stores", data.open(data.all_splits), split, columns, tokenizer)


def examples_of(batch, tokenizer):
    """Source and target texts of the pairs of a batch."""
    for row in range(len(batch.target.tokens)):
        for segment in range(1, int(batch.target.segment_ids[row].max()) + 1):
            source = batch.source.tokens[row][batch.source.segment_ids[row] == segment]
            target = batch.target.tokens[row][batch.target.segment_ids[row] == segment]
            yield tokenizer.decode_source(source.tolist()), tokenizer.decode_target(target.tolist())


def made(directory, data, tokenizer, *, first=0, number=12, position=None, seed=5):
    batches = training_batches(
        store_of(directory, data, tokenizer), Translation().batch_format(data), vocabulary=tokenizer.vocabulary,
        tokenizer=tokenizer, target_tokens_per_batch=4 * 48, seed=seed, first_batch=first, num_batches=number,
        plan_position=position,
    )  # fmt: skip
    found = [sorted(examples_of(batch, tokenizer)) for batch in batches]
    return found, batches.plan_position


def test_every_example_is_in_an_epoch_as_often_as_its_weight_says(directory, tokenizer):
    data = mixture(directory, real=(3.0,), synthetic=(1.0,))
    batches, position = made(directory, data, tokenizer, number=40)
    assert position.epoch >= 2
    counts = collections.Counter()
    for batch in batches:
        counts.update(batch)
        if sum(counts.values()) == 3 * SIZES["real"] + SIZES["synthetic"]:
            break
    by_part = collections.defaultdict(set)
    for (source, target), number in counts.items():
        is_tagged = source.startswith("<bt> ")
        assert is_tagged == (target[0] == "S") and source.removeprefix("<bt> ").upper() == target.upper()
        by_part["synthetic" if is_tagged else "real"].add(number)
    assert by_part == {"real": {3}, "synthetic": {1}} and len(counts) == sum(SIZES.values())


@pytest.mark.parametrize("weight", [0.25, 0.4, 1.75, 2.0, 3.1])
def test_fractions_of_weights_are_exact_in_every_epoch_and_fair_over_epochs(weight):
    size = 41
    mixing = Mixing(weights=((1.0,), (weight,)))
    parts = np.array([0] * 7 + [1] * size)
    total = np.zeros(size, int)
    for epoch in range(25):
        counts = mixing.repetitions(parts, epoch, seed=3)
        assert (counts[:7] == 1).all() and set(counts[7:]) <= {int(weight), int(weight) + 1}
        total += counts[7:]
        # The floor of a sum of 25 fractions may be one less for rounding.
        assert 0 <= weight * size * (epoch + 1) - total.sum() < 1 + 1e-9
        assert total.max() - total.min() <= 1
    orders = {tuple(mixing.repetitions(parts, 0, seed=seed)) for seed in range(5)}
    assert weight == 2.0 or len(orders) > 1


def test_weights_follow_a_schedule_of_epochs():
    mixing = Mixing(weights=((0.0, 1.0, 2.0), (1.0,)))
    parts = np.array([0, 0, 1])
    found = [mixing.repetitions(parts, epoch, seed=0).tolist() for epoch in range(5)]
    assert found == [[0, 0, 1], [1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 1]]


@pytest.mark.parametrize("weights", [{"real": (0.0,)}, {"real": (1e-9,), "synthetic": (1e-9,)}])
def test_weights_that_leave_nothing_to_train_on_are_refused(directory, tokenizer, weights):
    """The second part fits no row here: without a word training would look for its examples for ever."""
    for side in ("src", "tgt"):
        (directory / f"long.train.{side}").write_text(f"{'x y z ' * 60}\n" * 3)
    long = Part(
        name="long", source=source_of(directory, "long", validation=None), weights=weights.get("synthetic", (1.0,))
    )
    parts = (dataclasses.replace(mixture(directory).parts[0], weights=weights["real"]), long)
    with pytest.raises(ValueError, match="have 90, 0 examples that fit a row.*less than one example: raise the weight"):
        made(directory, mixture(directory, parts=parts), tokenizer, number=1)


def test_temperature_brings_sizes_together():
    mixing = Mixing(weights=((1.0,), (1.0,)), temperature=2.0)
    parts = np.array([0] * 900 + [1] * 100)
    # Square roots are as 3 to 1, of 1,000 examples.
    assert np.allclose(mixing.factors(np.array([900, 100])) * [900, 100], [750, 250])
    counts = mixing.repetitions(parts, 0, seed=1)
    assert (counts[:900].sum(), counts[900:].sum()) == (750, 250)
    assert set(counts[900:]) == {2, 3} and set(counts[:900]) == {0, 1}


def test_a_batch_is_the_same_wherever_a_run_continues(directory, tokenizer):
    data = mixture(
        directory,
        real=(0.0, 1.5),
        synthetic=(1.25,),
        augmentation=AugmentationConfig(source=NoiseConfig(word_drop=0.3)),
    )
    whole, position = made(directory, data, tokenizer, number=14)
    assert position.epoch >= 2
    first, position = made(directory, data, tokenizer, number=6)
    assert first + made(directory, data, tokenizer, first=6, number=8, position=position)[0] == whole
    assert made(directory, data, tokenizer, first=11, number=3)[0] == whole[11:]


def test_copies_of_an_example_have_noise_of_their_own(directory, tokenizer):
    parts = (
        Part(
            name="real", source=source_of(directory, "real"), weights=(8.0,),
            augmentation=AugmentationConfig(source=NoiseConfig(shuffle_window=4, word_drop=0.5)),
        ),
        Part(name="synthetic", source=source_of(directory, "synthetic"), tag="<bt>"),
    )  # fmt: skip
    data = mixture(directory, parts=parts, window=1000)
    pairs = itertools.chain.from_iterable(made(directory, data, tokenizer, number=30)[0])
    sources = collections.defaultdict(set)
    for source, target in pairs:
        sources[target].add(source)
    longest = max((target for target in sources if target[0] == "R"), key=len)
    assert len(sources[longest]) > 3
    # The other part has none.
    assert all(len(found) == 1 for target, found in sources.items() if target[0] == "S")


def test_documents_are_restored_from_noise(directory, tokenizer):
    documents = DocumentFiles(directory=str(directory), train=("documents.txt",), validation=None, test=None)
    parts = (
        Part(name="real", source=source_of(directory, "real")),
        Part(name="restored", source=documents, augmentation=AugmentationConfig(source=NoiseConfig(word_blank=1.0))),
    )
    data = mixture(directory, parts=parts)
    pairs = set(itertools.chain.from_iterable(made(directory, data, tokenizer, number=12)[0]))
    restored = {target for source, target in pairs if target[0] == "d"}
    assert restored == {f"d {spelt(index)}" for index in range(20)}
    assert all("d" not in source for source, target in pairs if target[0] == "d")


def test_validation_is_by_part_and_without_repetition(directory, tokenizer):
    data = mixture(directory, real=(2.0,), synthetic=(0.5,))
    assert data.all_splits == ("train", "validation", "test", "validation/synthetic")
    corpus = data.open(data.all_splits)
    assert corpus.splits == {"train": 130, "validation": 5, "validation/synthetic": 5}
    for split, first in (("validation", "r a y"), ("validation/synthetic", "<bt> s a y")):
        batches = evaluation_batches(
            store_of(directory, data, tokenizer, split), Translation().batch_format(data),
            vocabulary=tokenizer.vocabulary, target_tokens_per_batch=4 * 48,
        )  # fmt: skip
        sources = sorted(source for batch, _ in batches for source, _ in examples_of(batch, tokenizer))
        assert len(sources) == 5 and sources[0] == first


def test_what_was_read_decides_the_fingerprint_and_weights_do_not(directory):
    def fingerprint(data):
        return data.open(["train"]).fingerprint

    assert fingerprint(mixture(directory)) == fingerprint(mixture(directory, real=(7.0,)))
    untagged = mixture(directory).parts[0], dataclasses.replace(mixture(directory).parts[1], tag=None)
    assert fingerprint(mixture(directory, parts=untagged)) != fingerprint(mixture(directory))


def test_what_an_epoch_holds_of_each_part(directory, tokenizer):
    data = mixture(directory, real=(2.0,), synthetic=(0.5,))
    batch_format = Translation().batch_format(data)
    assert parts_of(store_of(directory, data, tokenizer), batch_format, seed=0) == [(90, 180), (40, 20)]
    # What is too long for a row is in no epoch.
    store = store_of(directory, data, tokenizer)
    lengths = store.columns["source"].lengths
    limit = int(np.median(lengths))
    short = Translation().batch_format(dataclasses.replace(data, max_source_length=limit))
    sizes = np.bincount(store.columns["part"].values[lengths <= limit], minlength=2).tolist()
    assert 0 < sizes[0] < 90 and 0 < sizes[1] < 40
    assert parts_of(store, short, seed=0) == [(90, 2 * sizes[0]), (40, sizes[1] // 2)]
    plain = dataclasses.replace(batch_format, mixing=None)
    assert parts_of(store_of(directory, data, tokenizer), plain, seed=0) == []


def test_mistakes_are_one_line(directory):
    def part(**settings):
        return Part(**({"name": "other", "source": source_of(directory, "real")} | settings))

    cases = [
        (lambda: mixture(directory, parts=()), "at least one part"),
        (lambda: mixture(directory, parts=(part(), part())), "the name 'other' twice"),
        (lambda: mixture(directory, real=(0.0,), synthetic=(1.0, 0.0)), "nothing is trained on"),
        (lambda: part(weights=()), "at least one"),
        (lambda: part(weights=(-1.0,)), "none of them negative"),
        (lambda: part(name="train"), "Rename it"),
        (lambda: part(source=source_of(directory, "real", packing=False)), "sets packing, which has no effect"),
        (lambda: mixture(directory, temperature=0.5), "temperature must be at least 1"),
        (lambda: mixture(directory, parts=(part(source=source_of(directory, "nowhere")),)).open(), "part other of the"),
    ]
    (directory / "empty.src").write_text("")
    (directory / "empty.tgt").write_text("")
    empty = source_of(directory, "real", train="empty")
    cases.append((lambda: mixture(directory, parts=(part(source=empty),)).open(["train"]), "the file is empty"))
    for make, message in cases:
        with pytest.raises(ValueError, match=message) as raised:
            make()
        assert "\n" not in str(raised.value)
    data = mixture(directory, augmentation=AugmentationConfig(bpe_dropout=0.1))
    with pytest.raises(ValueError, match="data.augmentation.bpe_dropout needs a source tokenizer of kind bpe"):
        Translation().check(data, TokenizerConfig(kind="char"))


@pytest.mark.parametrize("name", ["multi30k/back_translation", "multi30k/multilingual"])
def test_configs_survive_json_and_options_of_parts_are_options_of_the_command(name):
    config = load_config_by_name(name)
    assert from_json(Experiment, to_json(config)) == config
    assert set(flatten(config)) <= set(effects(config))
    changed = override(
        config, ["--data.parts.0.weights", "2.5", "--data.parts.0.source.directory", "elsewhere"], program="x"
    )
    assert changed.data.parts[0].weights == (2.5,)
    # A run may continue with its data in another place, and not with other weights.
    assert set(differences(config, changed)) == {"data.parts.0.weights", "data.parts.0.source.directory"}
    assert set(differences(config, changed, continuing=True)) == {"data.parts.0.weights"}
