"""The measurement of the loop's overhead, at toy size."""

import json

import pytest

from studies.loop_overhead import main

pytestmark = pytest.mark.long

TOY = (
    "--data.train_examples 300 --data.validation_examples 10 --data.test_examples 10 --tokenizer.vocabulary_size 800 "
    "--model.encoder.num_layers 1 --model.decoder.num_layers 1 --training.target_tokens_per_batch 288"
)


def test_what_is_measured_is_shown_and_written(tmp_path, capsys):
    path = tmp_path / "figures.json"
    main(
        f"dates/transformer {TOY} --data.cache_directory {tmp_path} --rounds 5 --steps 3 --pipeline_batches 4 "
        f"--json {path}".split()
    )
    shown, figures = capsys.readouterr().out, json.loads(path.read_text())
    for name in ("loop_seconds", "step_seconds"):
        assert len(figures[name]) == 5 and min(figures[name]) > 0
    overheads = [loop / step - 1 for loop, step in zip(figures["loop_seconds"], figures["step_seconds"], strict=True)]
    assert figures["overhead"]["median"] == pytest.approx(sorted(overheads)[2])
    for unit in ("pairs", "target tokens"):
        assert min(figures["supplied"][unit]) > 0
        # One amount of work in every round.
        amounts = [
            rate * seconds for rate, seconds in zip(figures["consumed"][unit], figures["step_seconds"], strict=True)
        ]
        assert amounts == pytest.approx([amounts[0]] * 5)
    assert f"{figures['overhead']['median']:.2%}" in shown and "pairs: given / taken" in shown


@pytest.mark.parametrize(("arguments", "named"), [("--rounds 3", "--rounds"), ("--steps 1", "--steps")])
def test_a_mistake_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        main(["dates/transformer", *arguments.split()])
