"""Compiled programs are kept where they can do no harm, and found again by another process."""

import os
import pathlib
import subprocess
import sys

import pytest
from compiling import compiling_as_usual

from seq2seq_jax.parallel import compilation_cache

REPOSITORY = pathlib.Path(__file__).parents[2]

COMPILE = """
import sys
import jax, jax.numpy as jnp
from seq2seq_jax.parallel import compilation_cache
compilation_cache.MIN_COMPILE_SECONDS = 0.0
directory = compilation_cache.keep_compiled_programs()
events = []
jax.monitoring.register_event_listener(lambda event, **details: events.append(event))
print(directory, jax.jit(lambda x: jnp.sort(x * 3.0).sum())(jnp.arange(8.0)))
print(events.count("/jax/compilation_cache/cache_hits"), events.count("/jax/compilation_cache/cache_misses"))
"""


def compile_in_a_process(**environment):
    """Directory, result, hits and misses of a process that compiles a program."""
    finished = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False,
        env={**compiling_as_usual(), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY), **environment},
    )  # fmt: skip
    assert (finished.returncode, finished.stderr) == (0, "")
    (directory, result), (hits, misses) = map(str.split, finished.stdout.splitlines())
    return directory, float(result), int(hits), int(misses)


@pytest.mark.skipif(not compilation_cache._notices_damage(), reason="JAX would not notice damage to its cache here")
def test_a_program_is_found_again_and_a_damaged_one_compiled_anew(tmp_path):
    directory, result, hits, misses = compile_in_a_process(XDG_CACHE_HOME=str(tmp_path))
    kept = pathlib.Path(directory)
    assert kept.parent == tmp_path / "seq2seq_jax" / "compiled"
    assert (result, hits) == (84.0, 0) and misses > 0
    assert kept.stat().st_mode & 0o077 == 0
    again = compile_in_a_process(XDG_CACHE_HOME=str(tmp_path))
    assert again == (directory, 84.0, misses, 0)
    for path in kept.glob("*-cache"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert compile_in_a_process(XDG_CACHE_HOME=str(tmp_path))[1:3] == (84.0, 0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"XDG_CACHE_HOME": "/caches", "HOME": "/home/me"}, "/caches"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache"),
        ({"HOME": "/home/me"}, "/home/me/.cache"),
        ({"HOME": ""}, None),
        ({}, None),
    ],
)
def test_the_place_is_the_user_s_for_caches(settings, expected):
    found = compilation_cache._directory(settings)
    assert (None if found is None else str(found.parents[2])) == expected


def test_each_kind_of_cpu_has_its_own_directory(tmp_path):
    description = "processor : {}\nmodel name : {}\ncpu MHz : {}\nflags : fpu {}\n"

    def kind(*values):
        (tmp_path / "cpuinfo").write_text(description.format(*values))
        return compilation_cache._kind_of_cpu(tmp_path / "cpuinfo")

    usual = kind(0, "A", 2100, "avx2")
    assert kind(0, "A", 3500, "avx2") == usual
    assert len({usual, kind(0, "A", 2100, "avx2 avx512f"), kind(0, "B", 2100, "avx2")}) == 3
    assert compilation_cache._kind_of_cpu(tmp_path / "absent") != usual


def test_what_the_user_has_set_is_left_alone(tmp_path):
    """Tests have a cache of their own."""
    assert compilation_cache.keep_compiled_programs({"XDG_CACHE_HOME": str(tmp_path)}) is None
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_someone_else_or_that_cannot_be_made_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert not compilation_cache._is_writable(tmp_path / "file" / "compiled")
    assert compilation_cache._is_writable(tmp_path / "compiled")
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert not compilation_cache._is_writable(tmp_path / "compiled")


def test_the_oldest_half_makes_room(tmp_path):
    for age in range(8):
        (tmp_path / f"{age}-cache").write_bytes(bytes(100))
        os.utime(tmp_path / f"{age}-cache", (1000 - age, 1000 - age))
    compilation_cache._remove_oldest(tmp_path, largest=800)
    assert len(list(tmp_path.iterdir())) == 8
    compilation_cache._remove_oldest(tmp_path, largest=799)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-cache", "1-cache", "2-cache"]
