"""Small tokenizers of other projects' kinds."""

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.imported_tokenizer import ImportedTokenizer

SOURCE, TARGET = "____abcd ", "____xyz "


def characters(*, letters=(SOURCE, TARGET), **special):
    """A tokenizer of one character each; ids 0 to 3 are special."""
    size = max(map(len, letters))
    special = {"pad_id": 0, "bos_id": 1, "eos_id": 2} | special
    vocabulary = Vocabulary(source_size=size, target_size=size, joint=True, **special)
    side = {"kind": "characters", "num_special": 4, "unknown_id": 3}
    sides = {
        "source": {**side, "characters": letters[0], "first": [1]},
        "target": {**side, "characters": letters[1], "first": []},
    }
    facts = dict(vars(vocabulary))
    return ImportedTokenizer({"format": 1, "vocabulary": facts, **sides}, {})
