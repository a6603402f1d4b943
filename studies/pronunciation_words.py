"""python -m studies.pronunciation_words: words of CMUdict with their sounds as us_bart writes them, as text files."""

import dataclasses
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from seq2seq_jax.data.text_files import read_lines
from seq2seq_jax.files import write_whole
from seq2seq_jax.overrides import override

PROGRAM = "python -m studies.pronunciation_words"
DESCRIPTION = """\
Write {train,val,test}.{words,sounds}: random words of a dictionary like CMUdict, and their first pronunciation
in the symbols of us_bart (stress before the vowel).
"""

SOUNDS = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "W", "AY": "I", "B": "b", "CH": "ʧ", "D": "d", "DH": "ð",
    "EH": "ɛ", "ER": "ɜɹ", "EY": "A", "F": "f", "G": "ɡ", "HH": "h", "IH": "ɪ", "IY": "i", "JH": "ʤ", "K": "k",
    "L": "l", "M": "m", "N": "n", "NG": "ŋ", "OW": "O", "OY": "Y", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ", "T": "t",
    "TH": "θ", "UH": "ʊ", "UW": "u", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip
"""Phoneme of CMUdict, without stress -> symbols of us_bart."""
UNSTRESSED = {"AH": "ə", "ER": "əɹ"}
"""Vowels that are written otherwise without stress."""
STRESS = {"0": "", "1": "ˈ", "2": "ˌ"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordsArguments:
    """Command line of the preparation."""

    dictionary: str = "cmudict.dict.gz"
    """The dictionary, plain or gzipped."""
    output: str = "words"
    """Directory of the files; it may be there."""
    excluded: str | None = None
    """File of words, the first column, that are left out: those that the model is known to have seen."""
    train: int = 2_000
    """Words to train on."""
    val: int = 200
    """Words of validation."""
    test: int = 1_000
    """Words to test with."""
    seed: int = 0
    """Of the draw."""


def sounds(phonemes: Iterable[str]) -> str:
    """Phonemes of CMUdict in the symbols of us_bart."""
    found = []
    for phoneme in phonemes:
        name, stress = phoneme.rstrip("012"), phoneme[-1]
        written = UNSTRESSED.get(name, SOUNDS[name]) if stress == "0" else SOUNDS[name]
        found.append(STRESS.get(stress, "") + written)
    return "".join(found)


def words_of(lines: Iterable[str]) -> dict[str, str]:
    """Words of letters alone, of three letters and more -> their first pronunciation."""
    found: dict[str, str] = {}
    for line in lines:
        word, *phonemes = line.partition("#")[0].split()
        if word.isascii() and word.isalpha() and len(word) > 2:
            found.setdefault(word, sounds(phonemes))
    return found


def main(arguments: list[str]) -> None:
    """Parse the command line, write the files."""
    chosen = override(WordsArguments(), arguments, program=PROGRAM, description=DESCRIPTION)
    known = words_of(read_lines(Path(chosen.dictionary)))
    if chosen.excluded is not None:
        for line in read_lines(Path(chosen.excluded)):
            known.pop(line.split("\t")[0], None)
    write_splits(known, chosen)


def write_splits(known: Mapping[str, str], chosen: WordsArguments) -> None:
    """Draw words for each split, and write them with their sounds."""
    drawn = random.Random(chosen.seed).sample(sorted(known), chosen.train + chosen.val + chosen.test)
    directory, place = Path(chosen.output), 0
    directory.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val", "test"):
        words = drawn[place : place + getattr(chosen, split)]
        place += len(words)
        write_whole(directory / f"{split}.words", "".join(f"{word}\n" for word in words))
        write_whole(directory / f"{split}.sounds", "".join(f"{known[word]}\n" for word in words))
    print(f"{len(drawn):,} of {len(known):,} words in {directory}")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
