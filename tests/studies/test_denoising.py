import json

import pytest

from studies.denoising import main


@pytest.fixture
def text(tmp_path):
    for name in ("train", "val", "test_2016_flickr"):
        for language in ("en", "de"):
            lines = "".join(f"{language} number {number} of {name}\n" for number in range(300))
            (tmp_path / f"{name}.{language}").write_text(lines)
    return tmp_path


def test_what_is_measured_is_shown_and_written(text, capsys):
    main(
        f"multi30k/denoising_small --data.directory {text} --tokenizer.vocabulary_size 400 --documents 200 --batches 3 "
        f"--json {text}/figures.json".split()
    )
    shown = capsys.readouterr().out
    figures = json.loads((text / "figures.json").read_text())
    lines = [f"en number {number} of train" for number in range(200)]
    assert (figures["documents"], figures["documents_in_all"]) == (200, 600)
    assert figures["characters"] == sum(map(len, lines))
    assert figures["tokens"] >= 200 and figures["seconds"] > 0 and figures["chunks_per_second"] > 0
    assert f"{200 / figures['seconds']:,.0f} documents/s" in shown
    assert f"{figures['chunks_per_second']:,.0f} chunks/s" in shown
    assert figures["environment"]["cpu"] in shown


@pytest.mark.parametrize(
    ("arguments", "named"),
    [("dates/transformer", "Dates, not documents"), ("multi30k/denoising_small --documents 0", "--documents and")],
)
def test_a_mistake_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        main(arguments.split())
