"""Records: appended, continued after a kill, and given to every writer."""

import json

import pytest
from logged import own_messages

from seq2seq_jax.training.telemetry import RecordFiles, read_records
from seq2seq_jax.training.writers import Writer, check_installed, scalars


def train_record(step, **figures):
    return {"kind": "train", "step": step, "loss": 1.0 / step, **figures}


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
    bleu = {"unit": "percent", "higher_is_better": True, "signature": "nrefs:1", "label": "BLEU"}
    validation = {"kind": "validation", "step": 1, "bleu": 12.5, "best": True, "metrics": {"bleu": bleu}}
    written = [train_record(1), validation, train_record(2)]
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
    [said] = own_messages(caplog)
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
    assert not own_messages(caplog) and not (tmp_path / "damaged").exists()


@pytest.mark.parametrize("line", ["{", "[]", "1", '{"kind": "train"}', '{"kind": 1, "step": 2}', "\udcff", "[" * 10**5])
def test_lines_that_are_no_records_are_left_out_and_said(tmp_path, caplog, line):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(train_record(1)), line, json.dumps(train_record(3))]
    path.write_text("".join(f"{each}\n" for each in lines), errors="surrogateescape")
    assert [record["step"] for record in read_records(path)] == [1, 3]
    assert "1 lines are damaged and left out, the first is line 2" in caplog.text


class Remembering(Writer):
    """Keeps what it gets."""

    def __init__(self, *, fails=False):
        self.records, self.ended, self.fails = [], None, fails

    def write(self, record):
        self.records.append(record)

    def close(self, *, failed=False):
        self.ended = "failed" if failed else "finished"
        if self.fails:
            raise OSError("no space left")


def test_every_writer_gets_every_record_and_the_end(tmp_path):
    writers = [Remembering(), Remembering()]
    with RecordFiles(tmp_path, after_step=0, writers=writers) as files:
        files.write(train_record(1))
        files.write(train_record(2))
    for writer in writers:
        assert (writer.records, writer.ended) == ([train_record(1), train_record(2)], "finished")


def test_every_writer_is_closed_when_training_fails_and_when_another_does(tmp_path):
    writers = [Remembering(), Remembering(fails=True)]
    with pytest.raises(OSError, match="no space left"), RecordFiles(tmp_path, after_step=0, writers=writers) as files:
        files.write(train_record(1))
        raise ArithmeticError
    assert [writer.ended for writer in writers] == ["failed", "failed"]


def test_a_service_gets_finite_numbers_by_kind():
    record = {
        "kind": "train",
        "step": 3,
        "loss": 0.5,
        "mfu": float("nan"),
        "note": "text",
        "shares": [0.5],
        "best": True,
    }
    assert scalars(record) == {"train/loss": 0.5, "train/best": True}


def test_a_service_without_its_package_is_named(monkeypatch):
    check_installed(["tensorboard"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^--writers wandb needs .* pip install 'seq2seq_jax\[wandb\]', or leave it out\.$"
    ):
        check_installed(["wandb"])
