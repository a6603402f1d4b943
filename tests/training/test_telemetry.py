"""Records: appended, continued after a kill, and the same in TensorBoard."""

import json
import math
import struct
import time

import pytest
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


def lose_a_quote(lines):
    return [lines[0], lines[1].replace('"', "", 1), *lines[2:]]


def damage_a_key(lines):
    return [lines[0], lines[1].replace("loss", "lass"), *lines[2:]]


def change_a_digit(lines):
    return [lines[0], lines[1].replace("0.5", "0.6"), *lines[2:]]


def remove_a_line(lines):
    return [lines[0], *lines[2:]]


@pytest.mark.parametrize("damage", [lose_a_quote, damage_a_key, change_a_digit, remove_a_line, None])
def test_a_record_that_is_missing_is_said_and_what_was_found_is_kept(tmp_path, caplog, damage):
    path = tmp_path / "metrics.jsonl"
    with RecordFiles(tmp_path, after_step=0) as files:
        for step in (1, 2, 3):
            files.write(train_record(step))
        saved = list(files.checksums)
        files.write(train_record(4))
    if damage is None:
        path.unlink()
    else:
        path.write_text("".join(f"{line}\n" for line in damage(path.read_text().splitlines())))
    found = None if damage is None else path.read_bytes()
    with RecordFiles(tmp_path, after_step=3, checksums=saved) as files:
        assert [record["step"] for record in files.records] == ([] if damage is None else [1, 3])
    [said] = caplog.messages
    assert f"lacks {3 if damage is None else 1} of its 3 records up to step 3" in said
    if found is not None:
        assert (tmp_path / "damaged" / "metrics.jsonl-0").read_bytes() == found
        assert "damaged/metrics.jsonl-0" in said


def test_records_that_are_complete_are_continued_without_a_word(tmp_path, caplog):
    with RecordFiles(tmp_path, after_step=0) as files:
        for step in (1, 2):
            files.write(train_record(step))
        saved = list(files.checksums)
        files.write(train_record(3))
    with RecordFiles(tmp_path, after_step=2, checksums=saved) as files:
        assert files.checksums == saved and [record["step"] for record in files.records] == [1, 2]
    assert not caplog.messages and not (tmp_path / "damaged").exists()


@pytest.mark.parametrize("line", ["{", "[]", "1", '{"kind": "train"}', '{"kind": 1, "step": 2}', "\udcff", "[" * 10**5])
def test_lines_that_are_no_records_are_left_out_and_said(tmp_path, caplog, line):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(train_record(1)), line, json.dumps(train_record(3))]
    path.write_text("".join(f"{each}\n" for each in lines), errors="surrogateescape")
    assert [record["step"] for record in read_records(path)] == [1, 3]
    assert "1 lines are damaged and left out, the first is line 2" in caplog.text


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
