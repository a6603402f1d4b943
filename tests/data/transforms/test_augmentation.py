"""Augmentation of training examples: what it does to words, with which rates, and that nothing but keys decides it."""

import dataclasses
import hashlib
import itertools
import random

import jax
import numpy as np
import pytest
import scipy.stats

from seq2seq_jax.data.augmentation import AugmentationConfig, NoiseConfig
from seq2seq_jax.data.columns import ragged
from seq2seq_jax.data.dates import Dates
from seq2seq_jax.data.pipeline import evaluation_batches, training_batches
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.text_files import ParallelText
from seq2seq_jax.data.tokenizer import EOS_ID, Tokenizer, TokenizerConfig
from seq2seq_jax.data.transforms.noise import Noise
from seq2seq_jax.data.transforms.subwords import BpeDropout, Merges, UnigramSampling
from seq2seq_jax.data.transforms.words import Pieces, Words
from seq2seq_jax.tasks.translation import Translation

WORDS = (
    "der die das Hund Hunde Katze Katzen läuft laufen lief sieht sehen über grün grünes Haus Häuser Baum Bäume".split()
)
NUM_SENTENCES = 400


def sentences(number, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 14))) for _ in range(number)]


@pytest.fixture(scope="module")
def tokenizer():
    texts = sentences(NUM_SENTENCES, 0)
    texts += [
        *(text.upper() for text in texts[:20]),
        *(text.title() for text in texts[:20]),
        "k s d l ü h g b 0 1 2 3 4 5 6 7 8 9",
    ]
    config = TokenizerConfig(vocabulary_size=400, special_tokens=("<bt>",))
    return Tokenizer.train(list(zip(texts, texts, strict=True)), config)


@pytest.fixture(scope="module")
def dates():
    """Texts of 55 languages, and a BPE tokenizer without pieces for their rare characters."""
    pairs = list(Dates(train_examples=1500, validation_examples=1, test_examples=1).open().examples("train"))
    config = TokenizerConfig(vocabulary_size=1400, character_coverage=0.98)
    return [source for source, _ in pairs], Tokenizer.train(pairs, config)


def column(tokenizer, texts):
    return ragged(tokenizer.encode_source(texts), np.uint16)


def keys(number, first=0):
    return np.arange(first, first + number, dtype=np.uint64)


def noisy(tokenizer, texts, first_key=0, **noise):
    stored = column(tokenizer, texts)
    return Noise(NoiseConfig(**noise), tokenizer, "source")({"source": stored}, keys(len(texts), first_key))["source"]


def words_of(tokenizer, made):
    """Of each text its words, as lists of pieces, without the EOS token."""
    result = []
    for index in range(len(made)):
        words = []
        for piece in tokenizer.source_pieces(made[index][:-1].tolist()):
            if piece.startswith("▁") or piece == "<unk>" or not words or words[-1] == ["<unk>"]:
                words.append([])
            words[-1].append(piece)
        result.append(["".join(word).removeprefix("▁") for word in words])
    return result


def test_merges_without_dropout_are_those_of_sentencepiece(dates):
    texts, tokenizer = dates
    stored = column(tokenizer, texts)
    merges = Merges(Pieces(tokenizer, "source"))
    words = Words.of(stored, merges.pieces)
    assert merges.pieces.is_byte[stored.values].any()
    for ids in {words.ids(word).tobytes() for word in range(len(words.starts))}:
        ids = np.frombuffer(ids, np.uint16).tolist()
        assert merges.segment(ids) == (ids, merges.merges_in[ids].sum())
    # A dropout too small to leave anything out, through the vectorised way.
    made = BpeDropout(tokenizer, "source", dropout=1e-12)({"source": stored}, keys(len(texts)))["source"]
    assert np.array_equal(made.values, stored.values) and np.array_equal(made.offsets, stored.offsets)


def test_dropout_of_all_merges_leaves_characters_and_any_dropout_the_text(dates):
    texts, tokenizer = dates[0][:150], dates[1]
    stored = column(tokenizer, texts)
    for dropout in (0.1, 0.5, 1.0):
        made = BpeDropout(tokenizer, "source", dropout=dropout)({"source": stored}, keys(len(texts)))["source"]
        assert [tokenizer.decode_source(made[index].tolist()) for index in range(len(texts))] == texts
        assert len(made.values) > len(stored.values)
    assert all(len(piece) == 1 or piece[0] == "<" for piece in set(tokenizer.source_pieces(made.values.tolist())))


def enumerated(pieces, text, dropout):
    """Probability of each segmentation of a word, by all outcomes of leaving out merges.

    A pair of neighbours that was left out stays so until one of them changes.
    """
    scores = {piece: pieces.scores[index] for index, piece in enumerate(pieces.texts) if not pieces.is_special[index]}
    found = {}

    def walk(ends, left_out, probability):
        spans = list(itertools.pairwise([0, *ends]))
        candidates = [
            (scores[text[start:end]], -start, (start, middle, end))
            for (start, middle), (_, end) in itertools.pairwise(spans)
            if text[start:end] in scores and (start, middle, end) not in left_out
        ]
        if not candidates:
            cut = tuple(text[start:end] for start, end in spans)
            found[cut] = found.get(cut, 0.0) + probability
            return
        _, _, best = max(candidates)
        walk(ends, left_out | {best}, probability * dropout)
        walk([end for end in ends if end != best[1]], left_out, probability * (1.0 - dropout))

    walk(list(range(1, len(text) + 1)), frozenset(), 1.0)
    return found


def chi_square(expected, counts, number):
    """The statistic and its degrees of freedom, outcomes that are rarer than 10 together."""
    assert set(counts) <= set(expected)
    frequent = [each for each in expected if expected[each] * number >= 10]
    observed = np.array([counts.get(each, 0) for each in frequent], float)
    wanted = np.array([expected[each] * number for each in frequent])
    rest = number - wanted.sum()
    if rest > 1e-6 * number:
        observed, wanted = np.append(observed, number - observed.sum()), np.append(wanted, rest)
    return float(((observed - wanted) ** 2 / wanted).sum()), len(wanted) - 1


def drawn(augment, tokenizer, word, number, first_key):
    """How often a word is cut in which way."""
    (ids,) = tokenizer.encode_source([word])
    stored = ragged([ids] * number, np.uint16)
    made = augment({"source": stored}, keys(number, first_key))["source"]
    counts = {}
    for index in range(number):
        cut = made[index][:-1].tobytes()
        counts[cut] = counts.get(cut, 0) + 1
    return {
        tuple(tokenizer.source_pieces(np.frombuffer(cut, np.uint16).tolist())): each for cut, each in counts.items()
    }


@pytest.mark.long
@pytest.mark.parametrize("dropout", [0.1, 0.4])
def test_bpe_dropout_has_the_distribution_of_all_outcomes(tokenizer, dropout):
    augment = BpeDropout(tokenizer, "source", dropout=dropout)
    pieces = Pieces(tokenizer, "source")
    words = [word for word in WORDS if len(word) <= 6] + ["lauf", "Haus", "seht", "fiel", "Bau"]
    number, total, freedom = 5_000, 0.0, 0
    for index, word in enumerate(words[:20]):
        counts = drawn(augment, tokenizer, word, number, index * number)
        statistic, degrees = chi_square(enumerated(pieces, f"▁{word}", dropout), counts, number)
        total, freedom = total + statistic, freedom + degrees
    assert freedom > 60
    assert scipy.stats.chi2.sf(total, freedom) > 0.01


@pytest.mark.parametrize("exponent", [0.2, 0.6])
def test_unigram_sampling_has_the_probabilities_of_all_segmentations(exponent):
    texts = [" ".join(one + two for two in WORDS) for one in WORDS]
    config = TokenizerConfig(kind="unigram", vocabulary_size=330)
    tokenizer = Tokenizer.train(list(zip(texts, texts, strict=True)), config)
    pieces = Pieces(tokenizer, "source")
    augment = UnigramSampling(tokenizer, "source", exponent=exponent)
    number, total, freedom = 5_000, 0.0, 0
    scores = {piece: pieces.scores[index] for index, piece in enumerate(pieces.texts) if not pieces.is_special[index]}
    for index, word in enumerate(("HundeHaus", "dasgrün", "Bäumelief", "siehtder")):
        text, weights = f"▁{word}", {}
        for borders in itertools.product((False, True), repeat=len(text) - 1):
            ends = [0, *(place + 1 for place, border in enumerate(borders) if border), len(text)]
            cut = tuple(text[start:end] for start, end in itertools.pairwise(ends))
            if all(piece in scores for piece in cut):
                weights[cut] = np.exp(exponent * sum(scores[piece] for piece in cut))
        expected = {cut: weight / sum(weights.values()) for cut, weight in weights.items()}
        counts = drawn(augment, tokenizer, word, number, index * number)
        statistic, degrees = chi_square(expected, counts, number)
        total, freedom = total + statistic, freedom + degrees
    assert freedom > 4
    assert scipy.stats.chi2.sf(total, freedom) > 0.01


def test_rates_of_noise_are_within_three_standard_errors(tokenizer):
    texts = [" ".join(["grünes", *words.split()]) for words in sentences(2000, 1)]
    clean = words_of(tokenizer, column(tokenizer, texts))
    number = sum(map(len, clean))

    def check(observed, rate, variance_factor=1.0):
        assert abs(observed / number - rate) < 3 * (variance_factor * rate * (1 - rate) / number) ** 0.5

    check(number - sum(map(len, words_of(tokenizer, noisy(tokenizer, texts, word_drop=0.15)))), 0.15)
    blanked = words_of(tokenizer, noisy(tokenizer, texts, word_blank=0.15))
    check(sum(text.count("<unk>") for text in blanked), 0.15)
    assert all(
        new in (old, "<unk>")
        for olds, news in zip(clean, blanked, strict=True)
        for old, new in zip(olds, news, strict=True)
    )
    replaced = words_of(tokenizer, noisy(tokenizer, texts, word_replace=0.2))
    pieces = Pieces(tokenizer, "source")
    candidates = [text.removeprefix("▁") for text in pieces.texts if text.startswith("▁") and text != "▁"]
    # A replacement may be the word itself.
    same_again = {word: candidates.count(word) / len(candidates) for word in WORDS}
    expected = sum(0.2 * (1 - same_again[word]) for text in clean for word in text)
    changed = sum(
        old != new for olds, news in zip(clean, replaced, strict=True) for old, new in zip(olds, news, strict=True)
    )
    check(changed, expected / number)
    # Words of a span go together, so that the variance is that of 2 * 3 - 1 times as many.
    spans = words_of(tokenizer, noisy(tokenizer, texts, span_mask=0.3, span_words=3.0))
    masked = sum(
        len(old) - len([word for word in new if word != "<unk>"]) for old, new in zip(clean, spans, strict=True)
    )
    check(masked, 0.3, variance_factor=5.0)
    assert not any(one == two == "<unk>" for text in spans for one, two in itertools.pairwise(text))
    cased = words_of(tokenizer, noisy(tokenizer, texts, case=0.25))
    check(
        sum(old != new for olds, news in zip(clean, cased, strict=True) for old, new in zip(olds, news, strict=True)),
        0.25,
    )
    assert [[word.lower() for word in text] for text in cased] == [[word.lower() for word in text] for text in clean]


def test_typing_errors_are_one_per_word(tokenizer):
    texts = sentences(300, 2)
    clean = words_of(tokenizer, column(tokenizer, texts))
    made = words_of(tokenizer, noisy(tokenizer, texts, typos=1.0))
    lengths = set()
    for old, new in zip(itertools.chain(*clean), itertools.chain(*made), strict=True):
        lengths.add(len(new) - len(old))
        prefix = next((place for place, (one, two) in enumerate(zip(old, new, strict=False)) if one != two), len(new))
        # All that differs lies within two letters.
        assert old[prefix + 2 :] in (new[prefix + 1 :], new[prefix + 2 :], new[prefix + 3 :])
    assert lengths == {-1, 0, 1}


def test_a_word_with_an_unknown_character_is_not_spelt_anew():
    texts = ["Hund und Katze HUND KATZE"] * 9
    config = TokenizerConfig(vocabulary_size=24, byte_fallback=False)
    unknowing = Tokenizer.train(list(zip(texts, texts, strict=True)), config)
    stored = column(unknowing, ["Hund", "ΩKatze", "Ω"])
    for noise in ({"typos": 1.0}, {"case": 1.0}):
        made = Noise(NoiseConfig(**noise), unknowing, "source")({"source": stored}, keys(3))["source"]
        assert [made[index].tolist() == stored[index].tolist() for index in range(3)] == [False, True, True]


def test_shuffled_words_stay_near_and_tags_stay_in_place(tokenizer):
    numbers = [" ".join(f"{WORDS[index % 19]}{index}" for index in range(10)) for _ in range(200)]
    made = words_of(tokenizer, noisy(tokenizer, [f"<bt> {text}" for text in numbers], shuffle_window=3))
    distances = set()
    for text, words in zip(numbers, made, strict=True):
        assert words[0] == "<bt>" or words[:2] == ["", "<bt>"] or words[0].endswith("<bt>")
        words = [word for word in words if word not in ("", "<bt>")]
        assert sorted(words) == sorted(text.split())
        distances |= {abs(text.split().index(word) - place) for place, word in enumerate(words)}
    assert distances == {0, 1, 2, 3}


def test_special_tokens_and_eos_survive_all_noise(tokenizer):
    texts = [f"<bt> {text} <bt>" for text in sentences(200, 3)]
    everything = {"word_drop": 0.3, "word_blank": 0.5, "span_mask": 0.5, "word_replace": 0.5, "typos": 0.5, "case": 0.5}
    made = noisy(tokenizer, texts, shuffle_window=5, **everything)
    tag = tokenizer.source_id("<bt>")
    for index in range(len(texts)):
        ids = made[index].tolist()
        assert ids[-1] == EOS_ID and ids.count(EOS_ID) == 1 and ids.count(tag) == 2
        assert tag in ids[:2] and ids[-2] == tag


def test_a_text_keeps_its_words_where_all_would_be_dropped(tokenizer):
    made = noisy(tokenizer, ["Hund", "Hund Katze"], word_drop=1.0)
    assert words_of(tokenizer, made) == [["Hund"], ["Hund", "Katze"]]


def test_what_contradicts_is_refused_in_one_line():
    cases = [
        (AugmentationConfig(bpe_dropout=0.1), TokenizerConfig(kind="char"), "bpe_dropout needs a source tokenizer"),
        (AugmentationConfig(bpe_dropout=0.1), TokenizerConfig(kind="unigram"), "kind bpe, and it is unigram"),
        (AugmentationConfig(unigram_sampling=0.2), TokenizerConfig(), "kind unigram, and it is bpe"),
        (
            AugmentationConfig(bpe_dropout=0.1),
            TokenizerConfig(joint=False, target_kind="char"),
            "tokenizer.target_kind",
        ),
        (AugmentationConfig(source=NoiseConfig(typos=0.1)), TokenizerConfig(kind="words"), "source.typos needs"),
        (AugmentationConfig(target=NoiseConfig(word_drop=0.1)), TokenizerConfig(kind="imported"), "it is imported"),
        (
            AugmentationConfig(source=NoiseConfig(word_replace=0.1)),
            TokenizerConfig(kind="char"),
            "source.word_replace needs a source tokenizer of kind bpe or unigram or words, and it is char",
        ),
    ]
    for augmentation, tokenizer, message in cases:
        with pytest.raises(ValueError, match=message) as raised:
            augmentation.check(tokenizer)
        assert "\n" not in str(raised.value)
    AugmentationConfig(bpe_dropout=0.1, sampled_side="source").check(TokenizerConfig(joint=False, target_kind="char"))
    for settings, message in (
        ({"word_drop": 1.5}, r"noise.word_drop must lie in \[0, 1\]"),
        ({"span_mask": 0.9}, "at most 0.750"),
        ({"shuffle_window": -1}, "shuffle_window"),
    ):
        with pytest.raises(ValueError, match=message):
            NoiseConfig(**settings)
    with pytest.raises(ValueError, match="sampled_side has no effect"):
        AugmentationConfig(sampled_side="source")


EVERYTHING = AugmentationConfig(
    source=NoiseConfig(
        shuffle_window=2, word_drop=0.1, word_replace=0.1, word_blank=0.1, span_mask=0.1, case=0.1, typos=0.1
    ),
    target=NoiseConfig(word_replace=0.05),
    bpe_dropout=0.2,
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tokenizer):
    """A store, and the format of its batches with and without augmentation."""
    directory = tmp_path_factory.mktemp("augmented")
    for extension, seed in (("a", 5), ("b", 6)):
        (directory / f"train.{extension}").write_text("\n".join(sentences(NUM_SENTENCES, seed)) + "\n")
    data = ParallelText(
        directory=str(directory), source="a", target="b", validation=None, test=None, max_source_length=48,
        max_target_length=48, window=150, augmentation=EVERYTHING,
    )  # fmt: skip
    store = Store.open_or_build(
        directory / "stores", data.open(["train"]), "train", Translation().columns(data), tokenizer
    )
    plain = dataclasses.replace(data, augmentation=AugmentationConfig())
    return store, Translation().batch_format(data), Translation().batch_format(plain)


def batches(stored, tokenizer, *, augmented=True, first=0, number=24, seed=3, **settings):
    store, with_noise, without = stored
    made = training_batches(
        store, with_noise if augmented else without, vocabulary=tokenizer.vocabulary, tokenizer=tokenizer,
        target_tokens_per_batch=8 * 48, seed=seed, first_batch=first, num_batches=number, **settings,
    )  # fmt: skip
    try:
        return [digest(batch) for batch in made], made.plan_position
    finally:
        made.close()


def digest(batch):
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(batch))).hexdigest()


def test_augmented_batches_are_the_same_wherever_a_run_continues(stored, tokenizer):
    all_of_them, _ = batches(stored, tokenizer)
    first, position = batches(stored, tokenizer, number=9)
    rest, _ = batches(stored, tokenizer, first=9, number=15, plan_position=position)
    without_position, _ = batches(stored, tokenizer, first=20, number=4)
    assert first + rest == all_of_them and without_position == all_of_them[20:]
    # More than two epochs, of other batches each; and another seed has others.
    assert len(set(all_of_them)) == len(all_of_them)
    assert not set(all_of_them) & set(batches(stored, tokenizer, seed=4, number=6)[0])
    assert not set(all_of_them) & set(batches(stored, tokenizer, augmented=False, number=6)[0])


def test_two_processes_share_what_one_makes(stored, tokenizer):
    store, with_noise, _ = stored
    settings = {
        "vocabulary": tokenizer.vocabulary, "tokenizer": tokenizer, "target_tokens_per_batch": 8 * 48, "seed": 3,
        "first_batch": 0, "num_batches": 8,
    }  # fmt: skip
    whole = list(training_batches(store, with_noise, **settings))
    halves = [list(training_batches(store, with_noise, **settings, process_index=i, process_count=2)) for i in range(2)]
    for batch, one, two in zip(whole, *halves, strict=True):
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), one, two)
        assert digest(joined) == digest(batch)


@pytest.mark.long
def test_two_workers_make_what_none_makes(stored, tokenizer):
    expected, _ = batches(stored, tokenizer, number=60)
    assert batches(stored, tokenizer, number=60, workers=2)[0] == expected


def test_evaluation_sees_no_augmentation(stored, tokenizer):
    store, *formats = stored
    with_noise, without = (
        [
            digest(batch)
            for batch, _ in evaluation_batches(
                store, batch_format, vocabulary=tokenizer.vocabulary, target_tokens_per_batch=8 * 48
            )
        ]
        for batch_format in formats
    )
    assert with_noise == without


def test_an_example_that_would_be_longer_than_a_row_stays_as_it_was(stored, tokenizer):
    store, with_noise, _ = stored
    longest = {side: int(store.columns[side].lengths.max()) for side in ("source", "target")}
    columns = {
        side: dataclasses.replace(column, max_length=2 * longest[side]) for side, column in with_noise.columns.items()
    }
    every_merge = dataclasses.replace(
        with_noise, columns=columns, max_source_length=2 * longest["source"], max_target_length=2 * longest["target"],
        augmentations=(AugmentationConfig(bpe_dropout=1.0),), packing=False,
    )  # fmt: skip
    batch = next(training_batches(
        store, every_merge, vocabulary=tokenizer.vocabulary, tokenizer=tokenizer, seed=0, first_batch=0, num_batches=1,
        target_tokens_per_batch=800 * longest["target"],
    ))  # fmt: skip
    stored_sources = {tuple(store.columns["source"][index].tolist()) for index in range(len(store))}
    kept = [tuple(row[row > 0].tolist()) in stored_sources for row in np.asarray(batch.source.tokens)]
    assert any(kept) and not all(kept)
