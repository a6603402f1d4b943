"""Buckets that pad the least, figures by hand, and the whole comparison on a few dates."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seq2seq_jax.benchmark.harness import Timing
from seq2seq_jax.data.packing import RowShape
from studies.packing import Batching, best_bounds, main, padded_shapes, padded_shapes_of_speech, speeds

REPOSITORY = Path(__file__).parents[2]


def places(lengths, bounds):
    """Of examples that are each padded to the first bound that holds them."""
    return sum(min(bound for bound in bounds if bound >= length) for length in lengths)


@pytest.mark.parametrize(
    ("buckets", "expected"), [(1, [10]), (2, [2, 10]), (3, [2, 8, 10]), (4, [1, 2, 8, 10]), (9, [1, 2, 8, 10])]
)
def test_bounds_by_hand(buckets, expected):
    assert best_bounds(np.array([8, 1, 2, 2, 2, 10, 10, 10]), buckets) == expected


def test_no_bounds_pad_less():
    random = np.random.default_rng(0)
    for _ in range(20):
        lengths = random.integers(1, 12, 30)
        found = best_bounds(lengths, 3)
        others = itertools.combinations(range(1, 12), 2)
        best = min(places(lengths, [*bounds, lengths.max()]) for bounds in others)
        assert found[-1] == lengths.max()
        assert places(lengths, found) == best


def test_padded_batches_have_about_the_places_of_a_packed_one():
    """96 places: 96 / 8 = 12 rows of 4 + 4 and, in twos, 96 / 18 = 5.3 and so 4 rows of 9 + 9."""
    shapes = padded_shapes(np.array([4, 1, 9, 3]), np.array([2, 4, 8, 3]), buckets=2, places=96, multiple=2)
    assert shapes == (
        RowShape(rows=12, source_length=4, target_length=4),
        RowShape(rows=4, source_length=9, target_length=9),
    )


def test_padded_batches_of_speech_are_of_like_sources():
    """96 places: of 4 + 2 there are 16 rows, and of 9 + 3, though its own target is 1, as many as fit in twos."""
    shapes = padded_shapes_of_speech(np.array([4, 3, 9, 8]), np.array([2, 1, 1, 3]), buckets=2, places=96, multiple=2)
    assert shapes == (
        RowShape(rows=16, source_length=4, target_length=2),
        RowShape(rows=8, source_length=9, target_length=3),
    )


def write_features(directory, *, positions):
    """Utterances of one word, of so many positions of four frames, to train and to validate on."""
    directory.mkdir()
    frames = [int(4 * each) for each in positions]
    for name in ("train", "dev"):
        rows = [f"{index}\tann\t{count}\tyes" for index, count in enumerate(frames)]
        (directory / f"{name}.tsv").write_text("\n".join(["id\tspeaker\tframes\ttext", *rows]) + "\n")
        values = np.random.default_rng(0).normal(size=(sum(frames), 13))
        (directory / f"{name}.cepstra.f32").write_bytes(values.astype("<f4").tobytes())


def test_padding_of_speech_by_hand(tmp_path, capsys):
    """Three utterances of 8, 4 and 4 positions in rows of 8: two rows, and three of 8 one by one."""
    write_features(tmp_path / "data", positions=(8, 4, 3.5))
    arguments = [
        *("an4/transformer_ctc", "--padding-only", "True", "--buckets", "1", "--json", str(tmp_path / "figures.json")),
        *("--data.directory", str(tmp_path / "data"), "--data.cache_directory", str(tmp_path / "cache")),
        *("--data.max_source_length", "8", "--data.max_target_length", "4"),
        *("--training.target_tokens_per_batch", "4", "--tokenizer.vocabulary_size", "7"),
    ]
    main(arguments)
    rows = json.loads((tmp_path / "figures.json").read_text())["configs"]["an4/transformer_ctc"]["rows"]
    assert rows["packed"]["source_fill"] == 1.0
    assert rows["padded, 1 buckets"]["source_fill"] == pytest.approx(16 / 24)
    assert "33.3%" in capsys.readouterr().out


def test_speed_by_hand():
    """An epoch of 4 packed batches of 3 s is 12 s; 6 short padded ones of 2 s and 1 long of 4 s are 16 s."""
    row, short, long = (RowShape(rows=2, source_length=length, target_length=length) for length in (8, 4, 9))
    batchings = {
        name: Batching(
            counts=counts, examples={}, fill=fill, source_fill=fill - 0.1, source_positions=96, target_tokens=48
        )
        for name, counts, fill in (("packed", {row: 4}, 0.9), ("padded", {short: 6, long: 1}, 0.7))
    }
    timings = {
        "packed": {row: Timing(first_call=7.0, seconds=(3.0,) * 4 + (30.0,))},
        "padded": {
            short: Timing(first_call=5.0, seconds=(2.0,) * 4 + (20.0,)),
            long: Timing(first_call=6.0, seconds=(4.0,) * 4 + (40.0,)),
        },
    }
    found = speeds(batchings, timings)
    assert found["packed"].tokens_per_second.median == 4.0
    assert found["padded"].tokens_per_second.median == 3.0
    assert found["padded"].source_per_second.median == 6.0
    assert found["padded"].source_fill == pytest.approx(0.6)
    assert found["padded"].packed_is_faster.median == pytest.approx(4 / 3)
    assert found["packed"].packed_is_faster.median == 1.0
    assert found["padded"].step.median == pytest.approx(16 / 7)
    assert (found["padded"].first_calls, found["padded"].shapes, found["padded"].fill) == (11.0, 2, 0.7)


@pytest.mark.long
def test_the_comparison_on_a_few_dates(tmp_path, capsys):
    main(
        [
            "dates/transformer",
            *("--buckets", "2", "--rounds", "5", "--json", str(tmp_path / "figures.json")),
            *("--data.train_examples", "400", "--data.validation_examples", "9", "--data.test_examples", "9"),
            *("--data.cache_directory", str(tmp_path), "--tokenizer.vocabulary_size", "700"),
            *("--model.encoder.num_layers", "1", "--model.decoder.num_layers", "1"),
        ]
    )
    shown = capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows = figures["configs"]["dates/transformer"]["rows"]
    assert list(rows) == ["packed", "padded, 2 buckets"]
    packed, padded = rows.values()
    assert (packed["shapes"], padded["shapes"]) == (1, 2)
    assert 0.8 < packed["fill"] < 1.0
    assert padded["packed_is_faster"]["median"] > 0.0
    for row in rows.values():
        assert f"{row['tokens_per_second']['median']:,.0f}" in shown
    assert figures["configs"]["dates/transformer"]["experiment"]["data"]["train_examples"] == 400
    assert figures["environment"]["cpu"] in shown


def test_a_mistake_is_one_line_and_exit_status_2():
    finished = subprocess.run(
        [sys.executable, "-m", "studies.packing", "no/config"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.count("\n") == 1
    assert "there is no config 'no/config'" in finished.stderr


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert [name for name in ("buckets", "rounds", "json", "data.directory") if f"--{name}" not in shown] == []


def test_documents_are_refused():
    with pytest.raises(ValueError, match="the data of multi30k/denoising_small is documents"):
        main(["multi30k/denoising_small"])
