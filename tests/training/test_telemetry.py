"""Records: appended, continued after a kill, and the same in TensorBoard."""

import json
import math
import struct
import time

from tensorboardX.proto.event_pb2 import Event

from seq2seq_jax.training.telemetry import RecordFiles, read_records


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


def test_no_file_has_no_records(tmp_path):
    assert read_records(tmp_path / "metrics.jsonl") == []


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = "".join(json.dumps(train_record(step)) + "\n" for step in (1, 2, 3))
    for end in range(1, len(json.dumps(train_record(3))) + 1):
        path.write_text(whole[:-end])
        # Without its newline alone, the last line is whole.
        assert [record["step"] for record in read_records(path)] == ([1, 2, 3] if end == 1 else [1, 2])


def test_records_are_written_as_they_come(tmp_path):
    written = [train_record(1), {"kind": "validation", "step": 1, "bleu": 12.5, "best": True}, train_record(2)]
    with RecordFiles(tmp_path, after_step=0) as files:
        for count, record in enumerate(written, 1):
            files.write(record)
            # Another process sees it at once: a kill loses nothing that was written.
            assert read_records(tmp_path / "metrics.jsonl") == written[:count]
        assert files.records == written


def test_a_continued_run_drops_the_records_after_its_checkpoint(tmp_path):
    with RecordFiles(tmp_path, after_step=0) as files:
        for step in (2, 4, 5, 6):
            files.write(train_record(step))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 8, "lo')
    with RecordFiles(tmp_path, after_step=4) as files:
        assert [record["step"] for record in files.records] == [2, 4]
        files.write(train_record(5, loss=9.0))
        assert files.records[-1]["loss"] == 9.0
    records = read_records(tmp_path / "metrics.jsonl")
    assert [(record["step"], record["loss"]) for record in records] == [(2, 0.5), (4, 0.25), (5, 9.0)]
    assert [path.name for path in tmp_path.glob("metrics*")] == ["metrics.jsonl"]


def test_tensorboard_has_the_finite_figures(tmp_path):
    with RecordFiles(tmp_path, after_step=0) as files:
        files.write(train_record(2, learning_rate=math.nan, note="text"))
        files.write({"kind": "validation", "step": 2, "bleu": 12.5, "best": True})
    values = board_values(tmp_path)
    assert ("train/loss", 2, 0.5) in values
    assert ("validation/bleu", 2, 12.5) in values
    assert not {tag for tag, _, _ in values} & {"train/learning_rate", "train/note", "train/step", "train/kind"}


def test_tensorboard_is_told_what_a_continued_run_takes_back(tmp_path):
    with RecordFiles(tmp_path, after_step=0) as files:
        files.write(train_record(6))
    # A file of TensorBoard is named by the second in which it was made.
    time.sleep(1.1)
    with RecordFiles(tmp_path, after_step=4) as files:
        files.write(train_record(5))
    starts = [event.step for event in board_events(tmp_path) if event.HasField("session_log")]
    assert starts == [1, 5], "TensorBoard hides what came from this step on before"
