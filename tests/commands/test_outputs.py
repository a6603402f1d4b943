"""Files for results are refused before the work, keep what they held until there is a result, and fail alone."""

import errno
import os

import pytest

from seq2seq_jax.commands.outputs import OutputFile, open_outputs, refuse_unwritable, refuse_unwritable_directory


@pytest.mark.parametrize("where", ["no such directory", "a directory", "below a file"])
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, where):
    (tmp_path / "file").write_text("old")
    path = {
        "no such directory": tmp_path / "none" / "new",
        "a directory": tmp_path,
        "below a file": tmp_path / "file" / "new",
    }[where]
    for open_ in (OutputFile, refuse_unwritable):
        with pytest.raises(ValueError, match=f"--json {path} cannot be written") as error:
            open_(str(path), "--json")
        assert "\n" not in str(error.value)
    good = tmp_path / "good"
    with pytest.raises(ValueError), open_outputs(("--output", str(good)), ("--json", str(path))):
        pytest.fail("opened")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_what_was_there_stays_until_there_is_a_result(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("much longer than the result\n")
    with pytest.raises(KeyboardInterrupt), open_outputs(("--output", str(old)), ("--json", str(new))):
        raise KeyboardInterrupt
    assert old.read_text() == "much longer than the result\n"
    assert not new.exists()
    with pytest.raises(KeyboardInterrupt), open_outputs(("--output", str(old)), ("--json", None)) as (file, nothing):
        assert nothing is None
        file.write("ä\n")
        file.write("b\n")
        raise KeyboardInterrupt
    assert old.read_text(encoding="utf-8") == "ä\nb\n", "what is done is kept"
    with open_outputs(("--output", str(old))) as (file,):
        file.write("")
    assert old.read_text() == "", "no result is a result"


def test_of_two_outputs_the_good_one_is_finished(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    good = tmp_path / "good"
    with (
        pytest.raises(OSError, match="/dev/full") as error,
        open_outputs(("--output", "/dev/full"), ("--json", str(good))) as (full, file),
    ):
        for text in ("a\n", "b\n"):
            full.write(text)
            file.write(text)
    assert error.value.errno == errno.ENOSPC
    assert error.value.__notes__ == [f"--json {good} is complete."]
    assert good.read_text() == "a\nb\n"


def test_one_file_is_not_written_twice_nor_while_it_is_read(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("sources")
    link.symlink_to(path)
    for named, inputs in (
        ([("--output", str(link))], [str(path)]),
        ([("--output", str(path)), ("--json", str(link))], [None]),
    ):
        with pytest.raises(ValueError, match="is the file"), open_outputs(*named, inputs=inputs):
            pytest.fail("opened")
    assert path.read_text() == "sources"
    with open_outputs(("--output", "-"), ("--json", "/dev/stdout")) as files:
        assert all(file.is_standard_output for file in files)


def test_a_pipe_takes_results_whose_reader_is_there(tmp_path):
    reader, writer = os.pipe()
    with open_outputs(("--output", f"/dev/fd/{writer}")) as (file,):
        file.write("one\n")
        assert os.read(reader, 100) == b"one\n"
        os.close(reader)
        file.write("two\n")
        assert isinstance(file.failure, BrokenPipeError)
        file.failure = None
    os.close(writer)


def test_a_directory_is_refused_where_none_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    refuse_unwritable_directory(tmp_path)
    refuse_unwritable_directory(tmp_path / "a" / "b")
    with pytest.raises(ValueError, match="file is not a directory"):
        refuse_unwritable_directory(tmp_path / "file" / "b")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"], "it only looks"


def test_standard_input_is_not_written_to(tmp_path):
    lines = tmp_path / "lines"
    lines.write_text("a\n")
    kept, given = os.dup(0), os.open(lines, os.O_RDONLY)
    os.dup2(given, 0)
    try:
        with pytest.raises(ValueError, match="lines is the file that is read"), open_outputs(("--output", str(lines))):
            pytest.fail("opened")
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(given)
    assert lines.read_text() == "a\n"
