"""`seq2seq benchmark` at a toy size, on embedded dates and on the workplace's text."""

import json

import pytest

import seq2seq_jax
from seq2seq_jax.commands.options import with_profile_directory

pytestmark = pytest.mark.long

DATES = (
    "benchmark", "dates/transformer", "--data.train_examples", "400", "--data.validation_examples", "40",
    "--data.test_examples", "40",
    "--tokenizer.vocabulary_size", "600", "--training.target_tokens_per_batch", "144", "--generation.beam_size", "2",
    *(
        argument
        for side in ("encoder", "decoder")
        for name, value in (("num_layers", 1), ("model_dim", 16), ("num_heads", 2), ("hidden_dim", 32))
        for argument in (f"--model.{side}.{name}", str(value))
    ),
)  # fmt: skip
SMALL = ("--rounds", "5", "--steps", "1", "--batch_sizes", "3", "--input_batches", "2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the dates are kept, for all tests here."""
    return ("--data.cache_directory", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def measured(seq2seq, cache, tmp_path):
    """Runs the benchmark of dates, and returns its outcome and its figures."""

    def run(*arguments):
        outcome = seq2seq(*DATES, *SMALL, *cache, "--json", tmp_path / "found.json", *arguments)
        assert outcome.status == 0, outcome.errors
        return outcome, json.loads((tmp_path / "found.json").read_text())

    return run


def test_every_part_is_measured_and_traced_and_what_moved_is_named(measured, tmp_path):
    outcome, found = measured("--profile", tmp_path / "trace")
    training = found["parts"]["training"]
    # Four rows, each with at most 36 target tokens.
    assert 0 < training["pairs"] <= training["target_tokens"] <= 4 * 36
    places = 4 * (96 + 36)
    assert training["padding_fraction"] == pytest.approx(
        1 - (training["target_tokens"] + training["source_tokens"]) / places
    )
    step = training["step"]
    assert 0 < step["lower_quartile"] <= step["median"] <= step["upper_quartile"]
    assert training["target_tokens_per_second"]["median"] == pytest.approx(training["target_tokens"] / step["median"])
    assert training["utilization"]["median"] == pytest.approx(
        training["model_flops"] / step["median"] / training["peak_flops"]
    )
    (shape,) = training["shapes"]
    assert shape["share"] == 1.0 and shape["compilation"]["compiling_seconds"] > 0
    assert training["peak_memory"]["device_peak_bytes"] is None
    assert training["peak_memory"]["process_peak_bytes"] > 2**26

    searches = found["parts"]["generation"]["searches"]
    assert [(each["beam_size"], each["sentences"]) for each in searches] == [(1, 3), (2, 3)]
    for each in searches:
        assert each["sentences"] <= each["tokens"] <= each["sentences"] * each["source_length"]
        assert each["sentences_per_second"] == pytest.approx(each["sentences"] / each["batch"]["median"])
    assert "limited to those of the references" in outcome.output

    made = found["parts"]["input"]
    assert made["batches"] == 10 and made["tokens"] <= places
    assert made["times_training"] == pytest.approx(step["median"] / made["batch"]["median"])

    operations = found["profile"]["operations"]
    assert sum(each["share"] for each in operations) == pytest.approx(1.0)
    assert any("dot" in each["category"] and "attention" in each["origin"] for each in operations)
    assert operations[0]["name"] in outcome.output

    assert found["config"] == "dates/transformer" and found["parameters"] == "new"
    assert found["overrides"]["model.encoder.model_dim"] == [128, 16]
    assert {"commit", "matmul_precision", "variables", "versions"} <= found["environment"].keys()

    # Input a thousand times as slow before, and another machine.
    old = json.loads(json.dumps(found))
    for name in ("median", "lower_quartile", "upper_quartile"):
        old["measurements"]["input, batch"][name] *= 1000
    old["environment"]["cpu"] = "another"
    (tmp_path / "old.json").write_text(json.dumps(old))
    outcome, found = measured("--parts", "input", "--compare", tmp_path / "old.json")
    line = next(line for line in outcome.output.splitlines() if "input, batch " in line)
    assert line.rstrip("│ ").endswith("faster")
    assert "differs: cpu was 'another'" in outcome.output


def test_a_sweep_goes_on_where_a_value_does_not_fit_and_draws_the_others(measured, tmp_path):
    outcome, found = measured("--sweep", "training.target_tokens_per_batch=100,72", "--plot", tmp_path / "sweep.png")
    rows, refused = found["sweep"]["rows"], found["sweep"]["refused"]
    assert list(rows) == ["72"] and list(refused) == ["100"]
    assert refused["100"].startswith(
        "training.target_tokens_per_batch must be a multiple of data.max_target_length = 36"
    )
    assert f"100: {refused['100']}"[:60] in outcome.output
    assert rows["72"]["places"] == 2 * (96 + 36)
    assert "training.target_tokens_per_batch = 72, training step" in found["measurements"]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_policy_gradients_count_what_they_sample(seq2seq, tmp_path):
    outcome = seq2seq("benchmark", "tiny/policy", "--parts", "training", *SMALL[:4], "--json", tmp_path / "found.json")
    assert outcome.status == 0, outcome.errors
    training = json.loads((tmp_path / "found.json").read_text())["parts"]["training"]
    # The last batch of an epoch has 6 of 10 sources.
    assert 9 <= training["pairs"] <= 10
    # Three samples of 1 to 24 + 6 tokens for each source.
    assert 3 <= training["sampled_tokens"] / training["pairs"] <= 3 * 30
    assert "sampled tokens/s" in outcome.output


def test_synthetic_rows_need_no_data_and_are_full(seq2seq, tmp_path):
    outcome = seq2seq(
        "benchmark", "tiny/denoising", "--data.directory", "nowhere", "--synthetic", "True", *SMALL,
        "--generation.beam_size", "1", "--json", tmp_path / "found.json",
    )  # fmt: skip
    assert outcome.status == 0, outcome.errors
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["parts"].keys() == {"training", "generation"}
    assert found["parts"]["training"]["padding_fraction"] == 0.0
    assert found["parts"]["training"]["pairs"] == 10


def test_parameters_of_a_run_end_their_texts_themselves(seq2seq, trained, tmp_path):
    outcome = seq2seq(
        "benchmark", "tiny/transformer", "--init-from", trained, "--parts", "generation", *SMALL,
        "--generation.beam_size", "1",
        "--json", tmp_path / "found.json",
    )  # fmt: skip
    assert outcome.status == 0, outcome.errors
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["parameters"] == f"of {trained}"
    assert found["parts"]["generation"]["lengths"] == "as the parameters end them"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "4"], ["--rounds must be at least 5, not 4"]),
        (["--steps", "0"], ["--steps must be at least 1, not 0"]),
        (["--parts", "train"], ["train", "generation"]),
        (["--batch_sizes", "0"], ["sizes are at least 1"]),
        (
            ["--sweep", "training.target_tokens_per_batc=1,2"],
            ["no field 'training.target_tokens_per_batc'", "training.target_tokens_per_batch?"],
        ),
        (
            ["--sweep", "training.target_tokens_per_batch"],
            ["--sweep cannot be 'training.target_tokens_per_batch'", "FIELD=VALUE"],
        ),
        (
            ["--sweep", "training.target_tokens_per_batch=24,48", "data.window=1,2,3"],
            ["needs as many values, and there are 2 and 3"],
        ),
        (["--sweep", "training.target_tokens_per_batch=24", "--parts", "input"], ["--sweep measures training"]),
        (["--sweep", "training.target_tokens_per_batch=24", "--profile"], ["--profile has no effect with --sweep"]),
        (["--profile", "--parts", "input"], ["--profile traces training or generation"]),
        (["--synthetic", "True", "--parts", "input"], ["no input pipeline"]),
        (["--compare", "nothing.json"], ["nothing.json cannot be read", "No such file"]),
        (["--compare", "table/train.jsonl"], ["table/train.jsonl is not what seq2seq benchmark --json writes"]),
        (["--data.directory", "nowhere"], ["no directory nowhere"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_mistake_is_one_line(seq2seq, arguments, said):
    outcome = seq2seq("benchmark", "tiny/transformer", *arguments)
    assert outcome.status == 2
    for part in said:
        assert part in outcome.error_line


def test_a_sweep_of_which_nothing_fits_is_a_mistake(seq2seq, tmp_path):
    outcome = seq2seq("benchmark", "tiny/transformer", "--sweep", "training.target_tokens_per_batch=25,ten")
    assert outcome.status == 2
    assert "no value of --sweep could be measured; 25: training.target_tokens_per_batch must be" in outcome.errors


def test_peers_have_a_help_of_their_own(seq2seq):
    outcome = seq2seq("benchmark", "--peers", "--help")
    assert outcome.status == 0
    assert "--models" in outcome.output.split()


def test_a_config_may_be_all_that_is_given():
    assert with_profile_directory([]) == []
    assert with_profile_directory(["--profile"]) == ["--profile", "profile"]
    assert with_profile_directory(["--profile", "--rounds", "5"]) == ["--profile", "profile", "--rounds", "5"]
    assert with_profile_directory(["--profile", "there"]) == ["--profile", "there"]


def test_an_installed_package_without_its_checkout_has_no_peers(seq2seq, tmp_path, monkeypatch):
    monkeypatch.setattr(seq2seq_jax, "__file__", str(tmp_path / "site-packages" / "seq2seq_jax" / "__init__.py"))
    outcome = seq2seq("benchmark", "--peers", "--help")
    assert outcome.status == 2
    assert "--peers comes with the source checkout (studies/peers)" in outcome.error_line
