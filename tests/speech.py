"""Speech for tests: small examples, and rows of them."""

import io
import itertools
import tarfile
import wave

import jax
import jax.numpy as jnp
import numpy as np
from batches import sequence

from seq2seq_jax.batch import Batch, FrameRows, Vocabulary
from seq2seq_jax.data.columns import Frames, Ragged
from seq2seq_jax.data.layout import lay_out_frames
from seq2seq_jax.data.packing import BatchRows
from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.front_end import FeaturesConfig, LogMelConfig, SpecAugmentConfig


def rows_of_frames(rows, *, length, stride) -> FrameRows:
    """Rows of examples [time, features].

    Args:
        rows: the examples of each row.
        length: positions of a row.
        stride: vectors of a position.
    """
    examples = [example for row in rows for example in row]
    first = examples[0]
    offsets = np.concatenate([[0], np.cumsum([len(example) for example in examples])])
    plan = BatchRows(
        examples=np.arange(len(examples)),
        epochs=np.zeros(len(examples), int),
        counts=np.array([len(row) for row in rows]),
        source_length=length,
        target_length=1,
        max_examples=None,
    )
    column = Frames(num_features=first.shape[1], kind=first.dtype.name, stride=stride)
    return jax.tree.map(
        jnp.asarray, lay_out_frames(Ragged(np.concatenate(examples), offsets), plan, length, column=column)
    )


def of_segments(values, segment_ids, rows):
    """What an array [rows, places, ...] holds at each example of rows, in order.

    Args:
        segment_ids: of the array's places.
    """
    return [
        np.asarray(values[row])[np.asarray(segment_ids[row]) == number]
        for row, examples in enumerate(rows)
        for number in range(1, len(examples) + 1)
    ]


def wav(samples, *, rate=8_000, channels=1) -> bytes:
    """A WAV file of 16-bit samples."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


WORDS = ("zero", "one", "two")


def write_digits(directory, *, speakers=("ann", "bob")):
    """Recordings of words, tones of which each word and speaker has one, and strings of them to validate on."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = ["split\tfile\tspeaker\ttext\tseconds"]
    with tarfile.open(directory / "recordings.tar", "w") as tar:
        for number, (speaker, word, take) in enumerate(itertools.product(speakers, WORDS, range(3))):
            length = int(rng.integers(1_200, 2_400))
            pitch = 0.05 + 0.1 * WORDS.index(word) + 0.02 * speakers.index(speaker)
            sound = np.sin(2 * np.pi * pitch * np.arange(length)) * 8_000 + rng.normal(size=length) * 50
            data, name = wav(sound), f"{number}_{speaker}.wav"
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            rows.append(f"{'dev' if take == 2 else 'train'}\t{name}\t{speaker}\t{word}\t{length / 8_000}")
    (directory / "recordings.tsv").write_text("\n".join(rows) + "\n")
    (directory / "strings_dev.tsv").write_text(
        "id\tspeaker\ttext\tfiles\tsilences\n"
        "ann-0\tann\tzero one\t2_ann.wav 5_ann.wav\t100 200 300\n"
        "bob-0\tbob\ttwo\t17_bob.wav\t50 80\n"
    )
    return directory


VOCABULARY = Vocabulary(source_size=9, target_size=9, joint=True, pad_id=0, bos_id=2, eos_id=3)
STACK = {"num_layers": 2, "model_dim": 16, "num_heads": 2, "hidden_dim": 32, "dropout": 0.1}
RECURRENT = {"model_dim": 12, "dropout": 0.1}
SPEC_AUGMENT = SpecAugmentConfig(time_masks=1, max_time_mask=3, frequency_masks=1, max_frequency_mask=3)
MODELS = {
    "transformer": ModelConfig(
        front_end=LogMelConfig(rate=8_000, bands=10, normalization="segment", deltas=1, spec_augment=SPEC_AUGMENT),
        encoder=TransformerEncoderConfig(**STACK),
        decoder=TransformerDecoderConfig(**STACK),
        tied_embeddings="decoder",
        ctc=True,
    ),
    "conformer": ModelConfig(
        front_end=FeaturesConfig(features=5, normalization="none", spec_augment=SPEC_AUGMENT),
        encoder=TransformerEncoderConfig(positions="rotary", convolution_kernel=5, scan_layers=True, **STACK),
        decoder=TransformerDecoderConfig(**STACK),
        tied_embeddings="decoder",
        ctc=True,
    ),
    "pyramid": ModelConfig(
        front_end=FeaturesConfig(features=5, normalization="segment", convolutions=0, spec_augment=SPEC_AUGMENT),
        encoder=RecurrentEncoderConfig(num_layers=3, pyramid_layers=2, hidden_dim=8, **RECURRENT),
        decoder=RecurrentDecoderConfig(hidden_dim=12, input_feeding=True, **RECURRENT),
        tied_embeddings="decoder",
        ctc=True,
    ),
}
"""Models of speech, whose positions are four frames."""


def spoken_pairs(name, rng, lengths):
    """Sources of a model of these lengths (frames), the last of which may be cut short, and targets that fit them."""
    config = MODELS[name]
    num_features, kind = config.front_end.stored
    per_frame = config.front_end.values_per_frame
    pairs = []
    for frames in lengths:
        size = frames * per_frame - int(rng.integers(per_frame))
        values = rng.normal(size=(size, num_features)) * (3_000 if kind == "int16" else 1)
        target = rng.integers(4, 9, min(3, -(-frames // 4) // 2))
        pairs.append((values.astype(kind), [*target.tolist(), VOCABULARY.eos_id]))
    return pairs


def spoken_batch(name, rows, *, source_length, target_length):
    """Pairs of each row, one after the other."""
    source = rows_of_frames(
        [[source for source, _ in row] for row in rows], length=source_length, stride=MODELS[name].source_stride
    )
    target = sequence([[target for _, target in row] for row in rows], target_length, VOCABULARY.pad_id)
    return Batch(source=source, target=jax.tree.map(jnp.asarray, target))
