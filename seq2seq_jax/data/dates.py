"""Dates as people write them in 55 languages, and the ISO form of each: a task that needs no download."""

import dataclasses
import datetime
import functools
import random
import re
from collections.abc import Collection, Iterator

from babel import Locale
from babel.dates import DateTimeFormat, DateTimePattern, get_date_format

from seq2seq_jax.data.source import SPLITS, Corpus, PairSource
from seq2seq_jax.data.texts import pairs

LOCALES = tuple(
    "af ar az be bg ca cs cy da de el en en_GB es et eu fi fil fr he hi hr hu hy id is it ja ka kk ko lt lv mk mn ms "
    "nb nl pl pt ro ru sk sl sq sr_Cyrl sv sw ta te tr uk uz vi zh_Hans zh_Hant zu".split()
)
"""Those of the Common Locale Data Repository that write the Gregorian calendar in Western digits: not th, whose years
are Buddhist in daily use, nor fa or bn, which have digits of their own."""

FIRST_YEAR, LAST_YEAR = 1950, 2049
"""A century, so that a year of two digits has one reading."""

STANDARD_FORMATS = ("full", "long", "medium", "short")
SKELETONS = ("yMMMEd", "yMd", "yMEd")
"""Further formats, by the fields that they show: short names of month and weekday, and figures alone."""

_FIRST_DAY = datetime.date(FIRST_YEAR, 1, 1).toordinal()
_NUM_DAYS = datetime.date(LAST_YEAR, 12, 31).toordinal() - _FIRST_DAY + 1
_SEED = 2049


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dates(PairSource):
    """Pairs such as ("de: Dienstag, 3. Mai 2022", "2022-05-03") and ("en_GB: 03/05/2022", "2022-05-03").

    The locale stands before the date because 3/5/22 is a day in March or in May. Locale, format and day (1950 to
    2049) are drawn evenly; no source text comes twice, in one split or in two.

    Source: Unicode Common Locale Data Repository, as the Babel library ships it.
    """

    train_examples: int = 100_000
    """Pairs to train on."""
    validation_examples: int = 2_000
    """Pairs to validate on."""
    test_examples: int = 2_000
    """Pairs to test on."""

    def __post_init__(self):
        super().__post_init__()
        for split, size in self._sizes.items():
            if size < 1:
                raise ValueError(f"expected {split}_examples of at least 1; got {size}: give a larger number")
        # Each locale has a text of its own for every day, so drawing without repetition reaches this many.
        limit = len(LOCALES) * _NUM_DAYS
        if sum(self._sizes.values()) > limit:
            raise ValueError(
                f"expected at most {limit} pairs in all splits together; got {sum(self._sizes.values())}: give "
                "smaller train_examples, validation_examples or test_examples"
            )

    @property
    def _sizes(self) -> dict[str, int]:
        # The held-out splits are drawn first, so that they stay the same when train_examples changes.
        return {"validation": self.validation_examples, "test": self.test_examples, "train": self.train_examples}

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Draw the pairs of splits."""
        sizes, draws = self._sizes, draw_pairs()
        last = max((position for position, split in enumerate(sizes) if split in splits), default=-1)
        drawn = {split: [next(draws) for _ in range(sizes[split])] for split in list(sizes)[: last + 1]}
        return pairs({split: functools.partial(iter, drawn[split]) for split in drawn if split in splits})


def draw_pairs() -> Iterator[tuple[str, str]]:
    """Pairs without end in an order that never changes, no source text twice."""
    formats = [(name, date_formats(name)) for name in LOCALES]
    # Of the standard library's generators only random() is promised to stay the same from version to version.
    uniform = random.Random(_SEED).random
    seen = set()
    while True:
        name, choices = formats[int(uniform() * len(formats))]
        date_format = choices[int(uniform() * len(choices))]
        date = datetime.date.fromordinal(_FIRST_DAY + int(uniform() * _NUM_DAYS))
        source = f"{name}: {date_format.write(date)}"
        if source not in seen:
            seen.add(source)
            yield source, date.isoformat()


def date_formats(name: str) -> list["DateFormat"]:
    """The formats of a locale, each pattern once."""
    locale = Locale.parse(name)
    patterns = [get_date_format(width, locale) for width in STANDARD_FORMATS]
    patterns += [locale.datetime_skeletons[skeleton] for skeleton in SKELETONS if skeleton in locale.datetime_skeletons]
    return [DateFormat(locale, pattern) for pattern in {pattern.pattern: pattern for pattern in patterns}.values()]


class DateFormat:
    """Writes dates as `babel.dates.format_date` does, from a table of each field's texts: 20 times as fast."""

    def __init__(self, locale: Locale, pattern: DateTimePattern):
        self.pattern = pattern.pattern
        self._template = _FIELD.sub("%s", str(pattern.format))
        fields = _FIELD.findall(str(pattern.format))
        self._tables = [(_COMPONENTS[field[0]], _field_texts(locale, field)) for field in fields]

    def write(self, date: datetime.date) -> str:
        """The text of a date from FIRST_YEAR to LAST_YEAR."""
        return self._template % tuple([texts[component(date)] for component, texts in self._tables])


_FIELD = re.compile(r"%\((\w+)\)s")

_COMPONENTS = {
    "y": lambda date: date.year,
    "M": lambda date: date.month,
    "d": lambda date: date.day,
    "E": lambda date: date.weekday(),
    "c": lambda date: date.weekday(),
}
"""By the first letter of a field, which part of the date its text depends on."""


@functools.cache
def _field_texts(locale: Locale, field: str) -> dict[int, str]:
    # The first month has 31 days, all weekdays among them.
    first_month = [datetime.date(FIRST_YEAR, 1, day) for day in range(1, 32)]
    months = [datetime.date(FIRST_YEAR, month, 1) for month in range(1, 13)]
    years = [datetime.date(year, 1, 1) for year in range(FIRST_YEAR, LAST_YEAR + 1)]
    dates = {"y": years, "M": months}.get(field[0], first_month)
    return {_COMPONENTS[field[0]](date): DateTimeFormat(date, locale)[field] for date in dates}
