import datetime
import random
import unicodedata

import pytest
from babel.dates import format_date

from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig, size_for

LOCALES = ("en", "de", "fr", "ja", "zh", "ko", "hi", "ar", "fa", "he", "th", "ru", "el", "ta", "bn", "my", "am", "ka")


def date_pairs(num_days=30):
    days = [datetime.date(1990, 1, 31) + datetime.timedelta(days=97 * index) for index in range(num_days)]
    return [
        (format_date(day, style, locale=locale), day.isoformat())
        for day in days
        for locale in LOCALES
        for style in ("full", "short")
    ]


# Full-width and ligature forms, a narrow space, Persian and Indic joiners, and characters that no pair contains.
AWKWARD = [
    "２０２０年１２月",
    "ﬁn ½",
    "12\u202fh",
    "می\u200cخواهم",
    "क्\u200dष",
    "𝄞 Ω ≈ 🎉",
    "<s> </s> <pad> <unk>",
    "a\tb",
]


NORMALIZED = {"identity": lambda text: text, "nfkc": lambda text: unicodedata.normalize("NFKC", text)}


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZED)
@pytest.mark.parametrize(("kind", "size"), [("bpe", 900), ("unigram", 800), ("char", 2000), ("words", 400)])
def test_text_survives_the_round_trip_normalised_as_configured(kind, size, normalization, joint):
    pairs = [(source, source[::-1]) for source, _ in date_pairs()]
    config = TokenizerConfig(kind=kind, vocabulary_size=size, normalization=normalization, joint=joint)
    tokenizer = Tokenizer.train(pairs, config)
    texts = [text for pair in pairs for text in pair if text == text.strip()] + AWKWARD
    for encode, decode in (
        (tokenizer.encode_source, tokenizer.decode_source),
        (tokenizer.encode_target, tokenizer.decode_target),
    ):
        encoded = encode(texts)
        assert all(ids[-1] == tokenizer.vocabulary.eos_id for ids in encoded)
        assert [decode(ids) for ids in encoded] == [NORMALIZED[normalization](text) for text in texts]


# Bars as people draw them; "▁" is how SentencePiece writes a space, "▅" what it keeps to itself.
BARS = ["▁▂▃▄▅▆▇█", "▁", "▅▅ ▅", "low ▁▁ high", "▁ ▁", "a▅ b▁", "\U0010fffd▁\U0010fffc"]


@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_characters_that_sentencepiece_uses_itself_survive(kind, byte_fallback, tmp_path):
    lines = ["▁▂▃▄▅▆▇█", "▅ low high", "a b"]
    size = (256 if byte_fallback else 0) + 30
    config = TokenizerConfig(kind=kind, vocabulary_size=size, byte_fallback=byte_fallback)
    trained = Tokenizer.train([(line, line) for line in lines], config)
    trained.save(tmp_path)
    for tokenizer in (trained, Tokenizer.load(tmp_path)):
        assert "▅" in tokenizer.source_pieces(range(tokenizer.vocabulary.source_size))
        if byte_fallback:
            assert [tokenizer.decode_source(ids) for ids in tokenizer.encode_source(BARS)] == BARS
            assert [tokenizer.decode_target(ids) for ids in tokenizer.encode_documents(BARS)] == BARS
        else:
            assert tokenizer.decode_source(tokenizer.encode_source(["a▅▅ b"])[0]) == "a▅▅ b"


def test_a_neighbour_with_a_bar_changes_no_ids():
    tokenizer = Tokenizer.train([("a bc", "cb a")], TokenizerConfig(kind="char"))
    alone, beside = tokenizer.encode_source(["a b"]), tokenizer.encode_source(["a b", "▁"])
    assert beside == [alone[0], [*tokenizer.encode_source(["▁"])[0]]]
    assert tokenizer.source_pieces(beside[1]) == ["<0xE2>", "<0x96>", "<0x81>", "</s>"]


def test_a_space_survives_where_training_had_none():
    tokenizer = Tokenizer.train([("日本", "本")], TokenizerConfig(kind="char"))
    assert [tokenizer.decode_source(ids) for ids in tokenizer.encode_source(["日 本", "▁ ▁"])] == ["日 本", "▁ ▁"]


def test_lines_of_reserved_characters_alone_are_text():
    tokenizer = Tokenizer.train([("▅▅", "▅ ▅")], TokenizerConfig(kind="char"))
    assert tokenizer.source_pieces(tokenizer.encode_source(["▅ ▅"])[0]) == ["▅", "▁", "▅", "</s>"]


def test_normalisation_changes_no_piece_of_text_that_is_normal():
    pairs = [(f"{number} dogs", f"{number} Hunde") for number in range(200)]
    texts = [text for pair in pairs for text in pair]
    exact, normal = (
        Tokenizer.train(pairs, TokenizerConfig(vocabulary_size=290, normalization=each)) for each in NORMALIZED
    )
    assert exact.encode_source(texts) == normal.encode_source(texts)


def test_each_side_has_its_own_model_when_not_joint():
    pairs = date_pairs()
    config = TokenizerConfig(kind="char", joint=False, byte_fallback=False, normalization="nfkc")
    tokenizer = Tokenizer.train(pairs, config)
    # Ten digits and the hyphen, after the four special ids.
    assert tokenizer.vocabulary.target_size == 4 + 11
    assert tokenizer.vocabulary.source_size == 4 + len(
        set("".join(unicodedata.normalize("NFKC", source) for source, _ in pairs))
    )
    assert not tokenizer.vocabulary.joint
    assert len(tokenizer.encode_target(["1990-01-31"])[0]) == 10 + 1


def test_special_ids_are_distinct_and_absent_from_text():
    tokenizer = Tokenizer.train(date_pairs(), TokenizerConfig(vocabulary_size=900))
    vocabulary = tokenizer.vocabulary
    special = {vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id}
    assert len(special) == 3
    assert vocabulary.source_size == vocabulary.target_size == 900
    assert not special & {token for ids in tokenizer.encode_source(AWKWARD) for token in ids[:-1]}
    assert tokenizer.encode_source([""]) == [[vocabulary.eos_id]]


def test_decoding_stops_at_the_end_and_skips_padding_and_start():
    tokenizer = Tokenizer.train(date_pairs(), TokenizerConfig(vocabulary_size=900))
    vocabulary = tokenizer.vocabulary
    (ids,) = tokenizer.encode_target(["2020-01-31"])
    noisy = [vocabulary.bos_id, vocabulary.pad_id, *ids, *ids, vocabulary.pad_id]
    assert tokenizer.decode_target(noisy) == "2020-01-31"
    assert tokenizer.decode_target([]) == ""


def test_pieces_say_what_each_id_stands_for():
    tokenizer = Tokenizer.train([("a ab", "cd")], TokenizerConfig(kind="char", joint=False))
    (source,), (target,) = tokenizer.encode_source(["a bé"]), tokenizer.encode_target(["dc"])
    assert tokenizer.source_pieces(source) == ["a", "▁", "b", "<0xC3>", "<0xA9>", "</s>"]
    assert tokenizer.target_pieces(target) == ["d", "c", "</s>"]


@pytest.mark.parametrize("joint", [True, False])
def test_save_and_load_keep_every_id(tmp_path, joint):
    pairs = [(source, source[::-1]) for source, _ in date_pairs()]
    config = TokenizerConfig(vocabulary_size=900, joint=joint)
    trained = Tokenizer.train(pairs, config)
    trained.save(tmp_path)
    expected = {"tokenizer.model"} if joint else {"tokenizer.source.model", "tokenizer.target.model"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    loaded = Tokenizer.load(tmp_path)
    texts = [target for _, target in pairs]
    assert loaded.encode_source(texts) == trained.encode_source(texts)
    assert loaded.encode_target(texts) == trained.encode_target(texts)
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.vocabulary == trained.vocabulary


def test_training_is_a_function_of_the_text():
    config = TokenizerConfig(kind="unigram", vocabulary_size=800)
    first, again = Tokenizer.train(date_pairs(), config), Tokenizer.train(iter(date_pairs()), config)
    other = Tokenizer.train(date_pairs(29), config)
    assert first.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_size_that_is_too_small_is_refused_with_the_number_that_works(kind):
    def train(size):
        return Tokenizer.train(date_pairs(), TokenizerConfig(kind=kind, vocabulary_size=size))

    with pytest.raises(ValueError, match="vocabulary_size is 300.*at least") as caught:
        train(300)
    assert "\n" not in str(caught.value)
    suggested = int(str(caught.value).partition("at least")[2].split()[0])
    assert train(suggested).vocabulary.source_size == suggested


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("joint", [True, False])
def test_a_size_that_is_too_large_is_lowered_and_reported(kind, joint, caplog):
    """The result is that of the size which the text admits, exactly."""
    lowered = Tokenizer.train(
        iter(date_pairs()), TokenizerConfig(kind=kind, vocabulary_size=200_000, joint=joint, special_tokens=("<a>",))
    )
    sizes = lowered.vocabulary
    messages = [message for message in caplog.messages if "instead of the 200,000" in message]
    assert len(messages) == (1 if joint else 2)
    assert f"{sizes.source_size:,} ids" in messages[0] and f"{sizes.target_size:,} ids" in messages[-1]
    config = TokenizerConfig(kind=kind, vocabulary_size=sizes.source_size, joint=True, special_tokens=("<a>",))
    texts = date_pairs() if joint else [(source,) for source, _ in date_pairs()]
    exact = Tokenizer.train(texts, config)
    assert exact.encode_source(AWKWARD) == lowered.encode_source(AWKWARD)
    assert exact.vocabulary.source_size == sizes.source_size


def test_words_are_what_spaces_divide():
    pairs = [("K AE1 T", "k a t"), ("D AO1 G K", "d o g")]
    tokenizer = Tokenizer.train(pairs, TokenizerConfig(kind="words", joint=False))
    assert tokenizer.vocabulary.source_size == 4 + 256 + 6, "K AE1 T D AO1 G"
    [ids] = tokenizer.encode_source(["K AO1 T"])
    assert tokenizer.source_pieces(ids) == ["▁K", "▁AO1", "▁T", "</s>"]
    for text in ("K AO1 T", "ZZ9", "ZZ9 K", "K ZZ9", "ZZ9 ZZ8", "", "K <0x20> x▁y ▁"):
        assert tokenizer.decode_source(tokenizer.encode_source([text])[0]) == text
    some = Tokenizer.train(pairs, TokenizerConfig(kind="words", joint=False, vocabulary_size=262))
    assert some.source_pieces(some.encode_source(["K D"])[0])[0] == "▁K", "the most frequent word"


def test_a_side_can_have_settings_of_its_own():
    """Letters to phonemes."""
    pairs = [("cat", "K AE1 T"), ("dog", "D AO1 G"), ("toad", "T OW1 D")]
    config = TokenizerConfig(
        kind="char", target_kind="words", joint=False, vocabulary_size=265, target_vocabulary_size=267
    )
    tokenizer = Tokenizer.train(pairs, config)
    assert tokenizer.source_pieces(tokenizer.encode_source(["cot"])[0]) == ["c", "o", "t", "</s>"]
    assert tokenizer.target_pieces(tokenizer.encode_target(["T AO1 D"])[0]) == ["▁T", "▁AO1", "▁D", "</s>"]
    assert (tokenizer.vocabulary.source_size, tokenizer.vocabulary.target_size) == (265, 267)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char", "words"])
def test_special_tokens_are_single_pieces(kind):
    special = ("<user>", "[state]", "|")
    config = TokenizerConfig(kind=kind, vocabulary_size=900, special_tokens=special)
    tokenizer = Tokenizer.train(date_pairs(), config)
    text = "<user> 2004 [state] | 05"
    [ids] = tokenizer.encode_source([text])
    pieces = [piece.removeprefix("▁") for piece in tokenizer.source_pieces(ids)]
    assert all(pieces.count(token) == 1 for token in special)
    assert tokenizer.decode_source(ids) == text


def test_the_size_is_an_upper_bound_for_characters():
    pairs = [("abca", "abd")]
    everything = Tokenizer.train(pairs, TokenizerConfig(kind="char"))
    assert everything.vocabulary.source_size == 4 + 256 + 4
    some = Tokenizer.train(pairs, TokenizerConfig(kind="char", vocabulary_size=262))
    assert some.vocabulary.source_size == 262
    assert some.decode_source(some.encode_source(["abcd"])[0]) == "abcd"


def test_training_without_text_is_refused():
    for pairs in ([], [("", "")]):
        with pytest.raises(ValueError, match="no text to train"):
            Tokenizer.train(pairs, TokenizerConfig())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary_size": 260}, "at least 261"),
        ({"vocabulary_size": 4, "byte_fallback": False}, "at least 5"),
        ({"character_coverage": 0.97}, "at least 0.98"),
        ({"character_coverage": 1.1}, "at most 1"),
        ({"target_kind": "words"}, "joint to False"),
        ({"target_vocabulary_size": 300}, "joint to False"),
        ({"joint": False, "target_vocabulary_size": 20}, "at least 261"),
        ({"special_tokens": ("a b",)}, "no spaces, and one is 'a b'"),
        ({"special_tokens": ("",)}, "is empty"),
        ({"special_tokens": ("</s>",)}, "piece of every tokenizer"),
        ({"special_tokens": ("<0x41>",)}, "piece of every tokenizer"),
        ({"special_tokens": ("<a>", "<b>", "<a>")}, "has <a> 2 times"),
        ({"special_tokens": ("<a>", "<b>"), "vocabulary_size": 262}, "2 special tokens.*263"),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**settings)


def test_loading_what_is_not_there_or_damaged_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer in"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_sentinels_are_tokens_that_text_can_spell(kind, tmp_path):
    config = TokenizerConfig(kind=kind, vocabulary_size=320, num_sentinels=12)
    tokenizer = Tokenizer.train([(f"hello number {number} world",) for number in range(300)], config)
    sentinel_ids = tokenizer.vocabulary.sentinel_ids
    assert len(set(sentinel_ids)) == 12
    assert tokenizer.source_pieces(sentinel_ids) == [f"<extra_id_{number}>" for number in range(12)]
    text = "hello<extra_id_0> world<extra_id_11>"
    (ids,) = tokenizer.encode_documents([text])
    assert [token for token in ids if token in sentinel_ids] == [sentinel_ids[0], sentinel_ids[11]]
    assert tokenizer.decode_source(ids) == text
    assert tokenizer.encode_source([text]) == [[*ids, tokenizer.vocabulary.eos_id]]
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).vocabulary == tokenizer.vocabulary


def test_a_tokenizer_without_sentinels_has_none():
    tokenizer = Tokenizer.train([("abc", "cba")], TokenizerConfig(kind="char"))
    assert tokenizer.vocabulary.sentinel_ids == ()


def test_a_tokenizer_is_trained_on_the_first_examples():
    examples = [("abc", "cba")] * 5 + [("xyz", "zyx")] * 5
    config = TokenizerConfig(kind="char", training_examples=5)
    some, first = Tokenizer.train(examples, config), Tokenizer.train(examples[:5], config)
    assert some.fingerprint == first.fingerprint
    assert some.fingerprint != Tokenizer.train(examples, TokenizerConfig(kind="char")).fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary_size": 300, "num_sentinels": 100}, "the 256 bytes of byte_fallback and 100 sentinels.*361"),
        ({"num_sentinels": -1}, "num_sentinels is -1"),
        ({"training_examples": 0}, "training_examples is 0"),
    ],
)
def test_sentinels_and_examples_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**settings)


def sentences(count):
    """Sentences of 25 characters on average, made of 400 words."""
    words = [f"{first}{vowel}{last}" for first in "bcdfghklmn" for vowel in "aeiou" for last in "lmnrstxz"]
    draw = random.Random(0).choice
    return [(" ".join(draw(words) for _ in range(6)), " ".join(draw(words) for _ in range(6))) for _ in range(count)]


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
@pytest.mark.parametrize("count", [1, 3, 2_000])
def test_a_vocabulary_follows_its_text(kind, count, joint, caplog):
    """Whatever there is of it, training goes through, says what it chose, and keeps every text."""
    caplog.set_level("INFO")
    pairs = sentences(count)
    tokenizer = Tokenizer.train(iter(pairs), TokenizerConfig(kind=kind, vocabulary_size=None, joint=joint))
    vocabulary = tokenizer.vocabulary
    for size in (vocabulary.source_size, vocabulary.target_size):
        assert 260 < size <= 2_000
    assert f"The vocabulary has {vocabulary.source_size:,} " in caplog.text
    assert f"{sum(len(text) for pair in pairs for text in pair):,} characters" in caplog.text
    source, target = pairs[-1]
    assert tokenizer.decode_source(tokenizer.encode_source([source])[0]) == source
    assert tokenizer.decode_target(tokenizer.encode_target([target])[0]) == target


@pytest.mark.parametrize(
    ("characters", "size"),
    # 4 √characters: 2,000 at 250,000 (some 2,000 pairs), 7,746 at 3.75 million (Multi30k), 22,627 at 32 million.
    [(0, 761), (30_000, 761), (250_000, 2_000), (3_750_000, 8_000), (10**7, 16_000), (32 * 10**6, 32_000)],
)
def test_the_size_that_suits_an_amount_of_text(characters, size):
    assert size_for(characters, TokenizerConfig(vocabulary_size=None)) == size


def test_a_script_of_more_characters_than_the_size_has_pieces_for_all():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 3_000)))
    pairs = [(text[start : start + 20], "a b") for start in range(0, 3_000, 20)]
    tokenizer = Tokenizer.train(iter(pairs), TokenizerConfig(vocabulary_size=None))
    (ids,) = tokenizer.encode_source([pairs[7][0]])
    assert len(ids) <= 20 + 2, "a piece a character, not three bytes"
