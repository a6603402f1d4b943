"""Dates: the texts are Babel's, each has one reading, and the splits are fixed and apart."""

import datetime
import itertools
import os
import subprocess
import sys

import pytest
from babel import Locale
from babel.dates import get_date_format, parse_pattern

from seq2seq_jax.data.dates import FIRST_YEAR, LAST_YEAR, LOCALES, STANDARD_FORMATS, Dates, date_formats, draw_pairs

DAYS = [
    datetime.date.fromordinal(day)
    for day in range(datetime.date(FIRST_YEAR, 1, 1).toordinal(), datetime.date(LAST_YEAR + 1, 1, 1).toordinal())
]


def pairs_of(corpus):
    return {split: list(corpus.examples(split)) for split in corpus.splits}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("cache"))
    return Dates(cache_directory=directory, train_examples=300, validation_examples=20, test_examples=30).open()


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("de", "Dienstag, 3. Mai 2022"),
        ("es", "3 de mayo de 2022"),
        ("ja", "2022年5月3日"),
        ("en", "5/3/22"),
        ("en_GB", "03/05/2022"),
        ("zh_Hant", "2022年5月3日 星期二"),
    ],
)
def test_a_locale_writes_the_date_as_people_do(locale, text):
    assert text in [date_format.write(datetime.date(2022, 5, 3)) for date_format in date_formats(locale)]


@pytest.mark.parametrize("name", LOCALES)
def test_texts_are_those_of_babel(name):
    locale = Locale.parse(name)
    assert locale.default_numbering_system == "latn"
    formats = {date_format.pattern: date_format for date_format in date_formats(name)}
    assert {get_date_format(width, locale).pattern for width in STANDARD_FORMATS} <= set(formats)
    for day in DAYS[::997]:
        for pattern, date_format in formats.items():
            assert date_format.write(day) == parse_pattern(pattern).apply(day, locale)


@pytest.mark.parametrize("name", LOCALES)
def test_a_text_has_one_reading(name):
    """Among all days of years whose last digits could be a month or a day, and some of each other year."""
    formats = date_formats(name)
    readings = {}
    for day in itertools.chain((day for day in DAYS if 2001 <= day.year <= 2012), DAYS[::61]):
        for date_format in formats:
            assert readings.setdefault(date_format.write(day), day) == day


def test_splits_have_their_sizes_and_share_no_source(small):
    assert small.splits == {"train": 300, "validation": 20, "test": 30}
    sources = [source for pairs in pairs_of(small).values() for source, _ in pairs]
    assert len(sources) == len(set(sources)) == 350


def test_full_size_has_every_locale_and_no_source_twice():
    sources = [source for source, _ in itertools.islice(draw_pairs(), 104_000)]
    assert len(set(sources)) == len(sources)
    assert {source.split(": ")[0] for source in sources} == set(LOCALES)
    assert len(set(LOCALES)) == len(LOCALES) >= 40


def test_targets_are_the_dates_of_the_sources(small):
    for source, target in pairs_of(small)["train"]:
        name, text = source.split(": ", maxsplit=1)
        texts = [date_format.write(datetime.date.fromisoformat(target)) for date_format in date_formats(name)]
        assert text in texts


def test_another_process_draws_the_same_pairs():
    program = (
        "import hashlib, itertools; from seq2seq_jax.data.dates import draw_pairs;"
        "print(hashlib.sha256(repr(list(itertools.islice(draw_pairs(), 3000))).encode()).hexdigest())"
    )
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        digests.add(
            subprocess.run(
                [sys.executable, "-c", program], env=environment, capture_output=True, check=True, text=True
            ).stdout
        )
    assert len(digests) == 1


def test_held_out_pairs_do_not_depend_on_the_number_of_training_pairs(small, tmp_path):
    other = Dates(cache_directory=str(tmp_path), train_examples=10, validation_examples=20, test_examples=30).open()
    assert pairs_of(other)["test"] == pairs_of(small)["test"]
    assert pairs_of(other)["validation"] == pairs_of(small)["validation"]
    assert other.fingerprint != small.fingerprint


@pytest.mark.parametrize("sizes", [{"train_examples": 0}, {"test_examples": -1}, {"validation_examples": 10**9}])
def test_sizes_out_of_range_are_refused(sizes, tmp_path):
    with pytest.raises(ValueError, match="examples"):
        Dates(cache_directory=str(tmp_path), **sizes).open()
    assert not list(tmp_path.iterdir())
