"""`seq2seq data` on generated dates: the tables, the picture and the JSON."""

import json

import matplotlib.image

DATES = (
    "data", "dates/transformer", "--data.train_examples", "400", "--data.validation_examples", "40",
    "--data.test_examples", "40", "--tokenizer.vocabulary_size", "600", "--training.target_tokens_per_batch", "144",
)  # fmt: skip


def test_what_a_training_would_see(seq2seq, tmp_path, unchanged):
    cache = ("--data.cache_directory", tmp_path / "cache")
    picture = tmp_path / "lengths.png"
    outcome = seq2seq(*DATES, *cache, "--plot", picture, "--json", tmp_path / "found", "--rows", "1", "--batches", "3")
    assert outcome.status == 0, outcome.errors
    found = json.loads((tmp_path / "found").read_text())
    train = found["splits"]["train"]["columns"]
    assert train["source"]["examples"] == 400 and found["splits"]["validation"]["columns"]["target"]["examples"] == 40
    assert train["source"]["ids_used"] <= train["source"]["vocabulary_size"] <= 600
    assert 0 < found["padding"]["source"] < 1 and found["padding"]["batches"] == 3
    assert f"{found['padding']['source']:.1%} of the source positions" in outcome.output
    assert f"{train['target']['tokens']:,}" in outcome.output
    [source, target] = [line for line in outcome.output.splitlines() if line.startswith("row 1, ")]
    assert source.startswith("row 1, source: ") and "</s>" in source and target.count("</s>") == source.count("</s>")
    height, width, _ = matplotlib.image.imread(picture).shape
    assert width > 800 and height > 500
    # A training finds the token ids there, and so does this command.
    with unchanged(tmp_path / "cache"):
        again = seq2seq(*DATES, *cache, "--plot", "None", "--rows", "0")
    assert again.status == 0 and "row 1" not in again.output and "lengths.png" not in again.output


def test_a_mistake_is_one_line(seq2seq, tmp_path):
    for arguments, message in (
        (("--batches", "0"), "--batches must be at least 1, not 0"),
        (("--rows", "-1"), "--rows must be at least 0, not -1"),
        (
            ("--data.max_target_length", "2", "--data.cache_directory", str(tmp_path)),
            "all 400 examples are longer than",
        ),
    ):
        outcome = seq2seq(*DATES, *arguments)
        assert outcome.status == 2 and message in outcome.errors.splitlines()[-1]
