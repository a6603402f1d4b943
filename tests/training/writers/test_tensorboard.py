"""TensorBoard's files, read as the format defines."""

import contextlib
import math
import struct
import time

from tensorboardX.proto.event_pb2 import Event

from seq2seq_jax.training.writers.tensorboard import RecordWriter


def writing(directory, *, after_step=0):
    return contextlib.closing(RecordWriter(directory, after_step=after_step, experiment={}))


def train_record(step, **figures):
    return {"kind": "train", "step": step, "loss": 1.0 / step, **figures}


def board_events(directory):
    """All events of TensorBoard's files, read as the format defines: length, its check, data, its check."""
    for path in sorted((directory / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def board_values(directory):
    return [
        (value.tag, event.step, value.simple_value)
        for event in board_events(directory)
        for value in event.summary.value
    ]


def test_tensorboard_has_the_finite_figures(tmp_path):
    with writing(tmp_path) as files:
        files.write(train_record(2, learning_rate=math.nan, note="text"))
        files.write({"kind": "validation", "step": 2, "bleu": 12.5, "best": True})
    values = board_values(tmp_path)
    assert ("train/loss", 2, 0.5) in values
    assert ("validation/bleu", 2, 12.5) in values
    assert not {tag for tag, _, _ in values} & {"train/learning_rate", "train/note", "train/step", "train/kind"}


def test_tensorboard_is_told_what_a_continued_run_takes_back(tmp_path):
    with writing(tmp_path) as files:
        files.write(train_record(6))
    # A file of TensorBoard is named by the second in which it was made.
    time.sleep(1.1)
    with writing(tmp_path, after_step=4) as files:
        files.write(train_record(5))
    starts = [event.step for event in board_events(tmp_path) if event.HasField("session_log")]
    assert starts == [1, 5], "TensorBoard hides what came from this step on before"
