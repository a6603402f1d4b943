"""The tables of studies.gpu_estimates, from files as its rows leave them; it continues where it was stopped."""

import json
import sys

import pytest

from studies.gpu_estimates import (
    ROWS,
    benchmark_parts,
    buffers_markdown,
    compile_all,
    main,
    markdown,
    part_commands,
    parts_markdown,
)


def report(peak, *, seconds=(0.1, 0.2), memory=True):
    """A step's report, with 1 GB of program."""
    parts = {"arguments": 2e9, "results": 0, "temporaries": peak - 3e9, "program": 1e9, "peak": peak}
    products = [{"dtype": "bf16", "flops": 3.0}, {"dtype": "f32", "flops": 1.0}]
    exchanges = [
        {"kind": "all-gather", "axes": "fsdp", "bytes": 1.5e9},
        {"kind": "all-to-all", "axes": "fsdp", "bytes": 4e7},
        {"kind": "reduce-scatter", "axes": "fsdp", "bytes": 7e8},
        {"kind": "all-reduce", "axes": "data", "bytes": 5e7},
    ]
    return {
        "step": "train",
        "work": "2 pairs",
        "mesh": {"data": 1, "fsdp": 8, "tensor": 1, "sequence": 1},
        "memory": parts if memory else None,
        "refusal": None if memory else "Ran out of memory.",
        "cost": {"exchanges": exchanges, "products": products, "flops": 4.0},
        "step_seconds": list(seconds),
        "utilization": [0.5, 0.05],
        "compile_seconds": 61.6,
        "fits": peak < 80e9,
    }


@pytest.fixture
def directory(tmp_path):
    def write(name, found):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))

    buffers = {"allocations": 80e9, "peak": 70e9}
    write("t5_11b-h100-8", {"reports": {"h100": report(84.0e9), "h200": report(84.0e9)}, "buffers": buffers})
    write("gnmt-h100-1", {"minutes": 30.0})
    write("gnmt-h200-1", {"reports": {"h200": report(9e9, memory=False), "h100": report(9e9, memory=False)}})
    write("generation-h100-1", {"minutes": 30.0})
    notes = (
        "compiled in 17 s, nothing measured; fits on h100",
        "compiled in 8 s, nothing measured; DOES NOT FIT on h100",
    )
    figures = [{"name": f"{name}: memory", "value": 2.5, "note": note} for name, note in zip("ab", notes, strict=True)]
    write("part-packing-h100", {"figures": figures})
    write("part-training_for_search-h200", {"steps": [report(4e9)]})
    return tmp_path


def cells(table):
    """Of each row of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_rows_show_what_was_compiled_for_them_or_for_their_sibling(directory):
    rows = cells(markdown(list(ROWS.values()), directory))
    large, sibling = (row for row in rows if row[0] == "T5-11B")
    assert large == [
        "T5-11B", "h100:8", "fsdp 8", "2 pairs", "2.00", "81.00", "**84.0 of 80: does not fit by 4.0**",
        "fsdp: all-gather 1.5, reduce-scatter 0.7; data: all-reduce 0.1", "75.0%", "100–200 ms", "5–50%", "62 s",
    ]  # fmt: skip
    assert sibling[1] == "h200:8" and sibling[6] == "84.0 of 141" and sibling[-1] == ""
    gnmt = [row for row in rows if row[0] == "GNMT"]
    assert [row[6] for row in gnmt] == ["**refused: Ran out of memory.**"] * 2
    assert [row[-1] for row in gnmt] == ["", "62 s"]
    (generation,) = (row for row in rows if row[0] == "Transformer-big, generation")
    assert generation[1] == "h100:1" and generation[3] == "not compiled in 30 minutes"
    assert {len(row) for row in rows} == {12}


def test_predicted_memory_stands_beside_the_compilers_buffers(directory):
    assert cells(buffers_markdown(list(ROWS.values()), directory)) == [
        ["T5-11B", "h100:8", "83.00 GB", "80.00 GB", "+3.8%", "70.00 GB"]
    ]


def test_parts_of_the_benchmark_are_compiled_as_the_script_starts_them(directory):
    parts = benchmark_parts()
    assert set(parts) == {
        "attention", "t5_large", "transformer_big", "packing", "policy_gradient", "training_for_search",
    }  # fmt: skip
    command = part_commands(parts, directory)["part-training_for_search-h200"]
    assert command[1:5] == ["-m", "seq2seq_jax", "compile", "dates/transformer"]
    assert command[-7:-1] == ["--steps", "train", "generation", "--topology", "h200:1", "--json"]
    assert "--run-dir" not in command and "--model.encoder.hidden_dim" in command
    assert cells(parts_markdown(parts, directory)) == [
        ["`packing`", f"{parts['packing'].seconds} s", "a", "2.50 GB, 17 s", ""],
        ["`packing`", f"{parts['packing'].seconds} s", "b", "2.50 GB, **does not fit**, 8 s", ""],
        ["`training_for_search`", f"{parts['training_for_search'].seconds} s", "train: 2 pairs", "", "4.00 GB, 62 s"],
    ]


@pytest.mark.long
def test_only_what_has_no_file_is_compiled_and_what_takes_too_long_is_recorded(tmp_path):
    program = "import sys, time; time.sleep(float(sys.argv[2])); open(sys.argv[1], 'a').write('{}')"
    commands = {
        name: [sys.executable, "-c", program, str(tmp_path / f"{name}.json"), seconds]
        for name, seconds in (("there", "0"), ("new", "0"), ("slow", "600"))
    }
    commands["failing"] = [sys.executable, "-c", "raise SystemExit(3)"]
    (tmp_path / "there.json").write_text("before")
    for _ in range(2):
        compile_all(commands, tmp_path, minutes=0.05)
    found = {path.stem: path.read_text() for path in tmp_path.glob("*.json")}
    assert found == {"there": "before", "new": "{}", "slow": '{"minutes": 0.05}\n'}


def test_a_row_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="there is no row 't5_huge', but there are: t5_large-h100-1"):
        main(["--only", "t5_huge"])


def test_batches_grow_with_the_gpus_and_parameters_are_divided_within_a_host():
    options = ROWS["t5_large-h200-64"].options
    assert options[-6:] == [
        "--training.target_tokens_per_batch",
        str(64 * 64 * 114),
        "--mesh.data",
        "8",
        "--mesh.fsdp",
        "8",
    ]
    assert ROWS["generation-h100-8"].options == ["--generation.source_tokens_per_batch", str(8 * 32 * 256)]


def test_lengths_that_no_product_divides_are_compiled_with_and_without_the_kernel():
    for kernel in ("auto", "plain"):
        assert ROWS[f"{kernel}_attention_37-h100-1"].options[4:8] == [
            "--model.encoder.attention_kernel", kernel, "--model.decoder.attention_kernel", kernel,
        ]  # fmt: skip
