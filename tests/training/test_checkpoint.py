"""Checkpoints: what comes back is what was saved, to the bit, or an error; never other values."""

import contextlib
import gc
import hashlib
import itertools
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from compiling import flags_for_devices
from logged import own_messages
from waiting import wait_until

from seq2seq_jax.objectives.objective import Objective, Player
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.training.checkpoint import (
    AnotherLayoutError,
    Checkpoints,
    DamagedCheckpoint,
    RemovedCheckpoint,
    checksum,
    checksum_of_part,
    checksums,
)
from seq2seq_jax.training.optimizer import AdafactorConfig, AdamWConfig
from seq2seq_jax.training.progress import LoopState, Progress, Window
from seq2seq_jax.training.step import initial_state, updates_of_old_checkpoints

REPOSITORY = pathlib.Path(__file__).parents[2]


class Layers(Objective):
    """Something to be saved; it is not trained."""

    @property
    def players(self):
        return (Player(name="model", initialize=self.initialize),)

    @property
    def turns(self):
        return ("model", "model")

    def initialize(self, key):
        keys = jax.random.split(key, 3)
        return {
            "embedding": jax.random.normal(keys[0], (5, 3)),
            # Wide enough for Adafactor to factor its second moment.
            "layer": {"kernel": jax.random.normal(keys[1], (128, 130)), "bias": jax.random.normal(keys[2], (7,))},
        }

    def initial_state(self, params):
        return {"baseline": jnp.float32(0.25), "reference": jax.tree.map(lambda leaf: leaf + 1, params["model"])}

    def loss(self, turn, params, prepared, *, step, rng):
        raise NotImplementedError

    def turn_flops(self, turn, prepared):
        raise NotImplementedError

    def work(self, rows, source, target):
        raise NotImplementedError


def make_state(optimizer_config, *, averaged, step=1):
    """The state after an update, all of whose arrays have content, and its layout."""
    optimizer = optimizer_config.build(10)
    build, layout = initial_state(
        Layers(),
        {"model": optimizer},
        average_decays={"model": 0.9 if averaged else None},
        seed=step,
        mesh=MeshConfig(data=1).build(),
    )
    state = build()
    player = state.players["model"]
    gradient = jax.tree.map(lambda leaf: jnp.sin(leaf * step), player.params)
    _, optimizer_state = optimizer.update(gradient, player.optimizer_state, player.params)
    average = None if player.average is None else jax.tree.map(lambda leaf: leaf / 3, player.average)
    player = player.replace(optimizer_state=optimizer_state, average=average, updates=jnp.int32(2 * step))
    return state.replace(step=jnp.int32(step), players={"model": player}), layout


def content(tree):
    """Structure, types and bits."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return jax.tree.structure(tree), [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in leaves]


def progress_of(step, score=None, loss=None):
    window = Window(sums={"loss": 0.1 + 0.2}, weights={"loss": 3.0})
    loop = LoopState(window=window, plan_position=[0, 1, step])
    return Progress(step=step, score=score, loop=loop, loss=loss)


def save(directory, *saves, **options):
    """Save (state, progress) one after the other."""
    with Checkpoints(directory, **options) as checkpoints:
        for state, progress in saves:
            checkpoints.save(state, progress)
        checkpoints.wait()


@pytest.fixture
def late_reads_are_quiet(monkeypatch):
    """Where a read fails, others are in flight that nobody waits for any more, and say so when they are collected."""
    monkeypatch.setattr(sys, "unraisablehook", lambda late: None)
    yield
    gc.collect()


OPTIMIZERS = {
    "clipped_adamw": AdamWConfig(clip_norm=1.0, weight_decay=0.1),
    "unclipped_adamw": AdamWConfig(clip_norm=None),
    "adafactor": AdafactorConfig(),
    "adafactor_with_decay": AdafactorConfig(weight_decay=0.1, scale_by_parameter=False),
}


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_was_saved_comes_back(tmp_path, name, averaged):
    state, layout = make_state(OPTIMIZERS[name], averaged=averaged)
    save(tmp_path / "checkpoints", (state, progress_of(1, 0.5)))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert content(checkpoints.restore(1, layout)) == content(state)
        assert checkpoints.progress(1) == progress_of(1, 0.5)
        restored, progress = checkpoints.restore_newest(layout)
    assert content(restored) == content(state)
    assert progress == progress_of(1, 0.5)
    assert {leaf.sharding for leaf in jax.tree.leaves(restored)} == {leaf.sharding for leaf in jax.tree.leaves(layout)}


def test_a_part_of_a_state_comes_back_alone(tmp_path):
    state, layout = make_state(AdamWConfig(), averaged=True)
    save(tmp_path / "checkpoints", (state, progress_of(1)))
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        for part in ("params", "average"):
            wanted = getattr(layout.players["model"], part)
            restored = checkpoints.restore(1, wanted, subtree=("players", "model", part))
            assert content(restored) == content(getattr(state.players["model"], part))
    assert content(state.players["model"].params) != content(state.players["model"].average)


def wider(leaf):
    return jax.ShapeDtypeStruct((*leaf.shape[:-1], leaf.shape[-1] + 1), leaf.dtype, sharding=leaf.sharding)


def narrower_type(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=leaf.sharding)


def test_a_checkpoint_from_before_updates_were_counted_is_read(tmp_path):
    """Each player had all its turns in every step; without that knowledge it has another layout, and stays."""
    state, layout = make_state(AdamWConfig(), averaged=True, step=3)
    older = flax.serialization.to_state_dict(state)
    del older["players"]["model"]["updates"]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(older, progress_of(3))
        checkpoints.wait()
        assert checkpoints.names(3, "players", "model") == {"params", "optimizer_state", "average"}
        with pytest.raises(AnotherLayoutError, match="it has no players/model/updates"):
            checkpoints.restore_newest(layout)
        restored, _ = checkpoints.restore_newest(layout, added=updates_of_old_checkpoints(Layers()))
        assert content(restored) == content(state.replace(players=_with_updates(state.players, 3 * 2)))
        assert restored.players["model"].updates.sharding == layout.players["model"].updates.sharding
        # What a checkpoint has is never replaced.
        checkpoints.save(state.replace(players=_with_updates(state.players, 5)), progress_of(4))
        checkpoints.wait()
        restored, _ = checkpoints.restore_newest(layout, added=updates_of_old_checkpoints(Layers()))
        assert int(restored.players["model"].updates) == 5


def _with_updates(players, updates):
    return {"model": players["model"].replace(updates=jnp.int32(updates))}


ANOTHER_LAYOUT = {
    "shape": (
        lambda params: {**params, "embedding": wider(params["embedding"])},
        r"embedding is float32 \[5, 3\] there",
    ),
    "dtype": (lambda params: {**params, "embedding": narrower_type(params["embedding"])}, "and bfloat16"),
    "more": (lambda params: {**params, "more": params["embedding"]}, "it has no players/model/params/more"),
    "fewer": (lambda params: {"embedding": params["embedding"]}, "this version has no players/model/params/layer/bias"),
}


@pytest.mark.usefixtures("late_reads_are_quiet")
@pytest.mark.parametrize("change", ANOTHER_LAYOUT)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "part"])
def test_another_layout_is_named_and_stays_where_it_is(two_steps, change, whole, unchanged_files, caplog):
    """An older version's state, or another model's: it is no damage, and nothing is moved aside for it."""
    directory, _, layout = two_steps
    changed, said = ANOTHER_LAYOUT[change]
    player = layout.players["model"]
    other = player.replace(params=changed(player.params))
    with unchanged_files(directory), Checkpoints(directory, read_only=not whole) as checkpoints:
        with pytest.raises(AnotherLayoutError, match=f"checkpoint 2 of .*not damaged.*{said}.*--init-from") as error:
            if whole:
                checkpoints.restore_newest(layout.replace(players={"model": other}))
            else:
                checkpoints.restore(2, other.params, subtree=("players", "model", "params"))
    assert "\n" not in str(error.value) and isinstance(error.value, ValueError)
    assert not (directory.parent / "damaged").exists() and not own_messages(caplog)


@pytest.mark.usefixtures("late_reads_are_quiet")
def test_damage_is_damage_where_the_layout_is_another_too(two_steps, tmp_path):
    original, _, layout = two_steps
    directory = pathlib.Path(shutil.copytree(original, tmp_path / "checkpoints"))
    for path in (directory / "00000002" / "state").rglob("d/*"):
        path.write_bytes(cut(path.read_bytes()))
    params = ANOTHER_LAYOUT["shape"][0](layout.players["model"].params)
    with Checkpoints(directory, read_only=True) as checkpoints, pytest.raises(DamagedCheckpoint):
        checkpoints.restore(2, params, subtree=("players", "model", "params"))


def test_a_record_of_another_version_is_named(tmp_path):
    save(tmp_path / "checkpoints", ({"leaf": jnp.arange(3.0)}, progress_of(1)))
    path = tmp_path / "checkpoints" / "00000001" / "record" / "metadata"
    content = json.loads(json.loads(path.read_text())["content"])
    content["progress"]["mood"] = "good"
    text = json.dumps(content)
    path.write_text(json.dumps({"content": text, "digest": hashlib.sha256(text.encode()).hexdigest()}))
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        with pytest.raises(AnotherLayoutError, match="another version's.*mood"):
            checkpoints.progress(1)
    del content["progress"]["mood"], content["progress"]["loss"]
    text = json.dumps(content)
    path.write_text(json.dumps({"content": text, "digest": hashlib.sha256(text.encode()).hexdigest()}))
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.progress(1) == progress_of(1), "a version that kept no loss"


@pytest.fixture
def unchanged_files():
    """A context in which the files below a directory stay as they are."""

    def files(directory):
        return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    @contextlib.contextmanager
    def check(directory):
        before = files(directory)
        yield
        assert files(directory) == before

    return check


@pytest.mark.parametrize(
    "name", ["[lr=3] a", "[0:3]", "*", "b?", "%20 %s %", "{step} {}", "#x;y", "$HOME '\"", "a\\b\n"]
)
def test_any_path_holds_checkpoints(tmp_path, name):
    """A library that takes the path for a pattern, a format or an address would lose them."""
    directory = tmp_path / name / "checkpoints"
    state = {"leaf": jnp.arange(3.0), "inner": {"dot.ted": jnp.ones((2, 3), jnp.bfloat16)}}
    layout = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    with Checkpoints(directory, keep_latest=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state, progress_of(step))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2]
        assert content(checkpoints.restore(2, layout)) == content(state)
    assert [path.name for path in directory.iterdir()] == ["00000002"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_link_that_would_be_no_better_is_refused(tmp_path, monkeypatch):
    (tmp_path / "[tmp]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[tmp]"))
    with pytest.raises(ValueError, match=r"\[run\].*Set TMPDIR"):
        Checkpoints(tmp_path / "[run]")


def written_otherwise(monkeypatch, change):
    """Let each step be changed on the disk when Orbax has completed it."""
    wait, changed, one_at_a_time = orbax.checkpoint.CheckpointManager.wait_until_finished, set(), threading.Lock()

    def change_then_return(manager):
        wait(manager)
        with one_at_a_time:
            for path in set(pathlib.Path(manager.directory).glob("0*/state")) - changed:
                changed.add(path)
                change(path)

    monkeypatch.setattr(orbax.checkpoint.CheckpointManager, "wait_until_finished", change_then_return)


def flip_content(state):
    path = max(state.glob("ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def lose_content(state):
    shutil.rmtree(state / "d")


@pytest.mark.parametrize("change", [flip_content, lose_content])
def test_a_checkpoint_counts_when_it_was_read_back(tmp_path, monkeypatch, change):
    """What is written otherwise than it was given is an error, and nothing that was there before is removed for it."""
    state, layout = make_state(AdamWConfig(), averaged=False)
    directory = tmp_path / "checkpoints"
    save(directory, (state, progress_of(1)), keep_latest=1)
    with Checkpoints(directory, keep_latest=1) as checkpoints:
        with monkeypatch.context() as disk:
            written_otherwise(disk, lambda path: change(path) if "00000002" in str(path) else None)
            checkpoints.save(state, progress_of(2))
            with pytest.raises(OSError, match="00000002.*reads back as something else: ") as error:
                checkpoints.save(state, progress_of(3))
            assert "\n" not in str(error.value)
        assert checkpoints.steps() == [1, 2]
        assert content(checkpoints.restore(1, layout)) == content(state)


@pytest.mark.parametrize(
    "words", ["RESOURCE_EXHAUSTED: Error writing /x [os_error_code='28']", "[Errno 28] No space left"]
)
def test_a_full_disk_is_said_in_plain_words(tmp_path, monkeypatch, words):
    def fail(*_, **__):
        raise ValueError(words)

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        with monkeypatch.context() as disk:
            disk.setattr(orbax.checkpoint.CheckpointManager, "save", fail)
            with pytest.raises(
                OSError, match=r"could not be written to .*checkpoints: the disk is full.* MiB are free"
            ):
                checkpoints.save({"leaf": jnp.arange(3.0)}, progress_of(1))


def test_what_is_not_complete_is_no_step(tmp_path):
    state, layout = make_state(AdamWConfig(), averaged=False)
    directory = tmp_path / "checkpoints"
    save(directory, (state, progress_of(3)))
    unfinished = directory / "00000004.orbax-checkpoint-tmp"
    shutil.copytree(directory / "00000003", unfinished)
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [3]
        assert checkpoints.best_first() == [3]
    assert unfinished.exists(), "who only reads must not clear away what another process may be writing"
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.steps() == [3]
        assert checkpoints.restore_newest(layout)[1].step == 3
        # Orbax removes it in a thread.
        wait_until(lambda: not unfinished.exists(), "removed")


def test_no_directory_has_no_steps(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.best_first() == []
    assert not (tmp_path / "checkpoints").exists()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.restore_newest({}) is None


def test_the_newest_and_the_best_are_kept(tmp_path):
    scores = {1: 0.1, 2: 0.9, 3: 0.3, 4: None, 5: 0.2}
    state = {"leaf": jnp.arange(3.0)}
    with Checkpoints(tmp_path, keep_latest=2) as checkpoints:
        kept = []
        for step, score in scores.items():
            checkpoints.save(state, progress_of(step, score))
            checkpoints.wait()
            kept.append(checkpoints.steps())
        assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5]]
        assert checkpoints.best_first() == [2, 5, 4]
    # A new process goes on in the same way: the scores are read back.
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        checkpoints.save(state, progress_of(6, 0.8))
        checkpoints.wait()
        assert checkpoints.steps() == [2, 6]
        checkpoints.save(state, progress_of(7, 1.8))
        checkpoints.wait()
        assert checkpoints.steps() == [7]


def test_best_first_orders_by_score_then_loss_then_step(tmp_path):
    validations = [(-2.0, 1.0), (5.0, 3.0), (None, None), (5.0, 2.0), (None, None), (-1.0, 9.0), (5.0, 3.0),
        (5.0, None), (math.nan, 0.0), (5.0, math.nan)]  # fmt: skip
    save(
        tmp_path,
        *(
            ({"leaf": jnp.arange(3.0)}, progress_of(step, score, loss))
            for step, (score, loss) in enumerate(validations, 1)
        ),
        keep_latest=20,
    )
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_first() == [4, 7, 2, 10, 8, 6, 1, 9, 5, 3]


def test_of_equal_scores_the_lower_loss_and_then_the_newer_step_is_kept(tmp_path):
    """A metric that says nothing, such as BLEU of single words, must not keep the oldest for ever."""
    state = {"leaf": jnp.arange(3.0)}
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        kept = []
        for step, loss in enumerate((5.0, 4.0, 4.0, 6.0, 7.0), 1):
            checkpoints.save(state, progress_of(step, 0.0, loss))
            checkpoints.wait()
            kept.append(checkpoints.steps())
    assert kept == [[1], [2], [3], [3, 4], [3, 5]]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A directory with two steps, their states, and the layout."""
    directory = tmp_path_factory.mktemp("two_steps") / "checkpoints"
    states = {}
    for step in (1, 2):
        states[step], layout = make_state(AdamWConfig(), averaged=True, step=step)
    save(directory, *((state, progress_of(step, float(step))) for step, state in states.items()))
    return directory, states, layout


def flip_first(data):
    return bytes([data[0] ^ 0x01]) + data[1:]


def flip_middle(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def flip_last(data):
    return data[:-1] + bytes([data[-1] ^ 0x80])


def cut(data):
    return data[: len(data) // 2]


@pytest.mark.long
@pytest.mark.usefixtures("late_reads_are_quiet")
@pytest.mark.parametrize("damage", [flip_first, flip_middle, flip_last, cut, None])
def test_damage_to_any_file_is_found_or_without_effect(two_steps, tmp_path, damage, caplog):
    original, states, layout = two_steps
    files = [path.relative_to(original) for path in sorted((original / "00000002").rglob("*")) if path.is_file()]
    found = []
    for number, name in enumerate(files):
        directory = tmp_path / str(number) / "checkpoints"
        shutil.copytree(original, directory)
        data = (directory / name).read_bytes()
        if damage is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(damage(data))

        with Checkpoints(directory, read_only=True) as checkpoints:
            try:
                restored = checkpoints.restore(2, layout)
                assert content(restored) == content(states[2]), f"{name} gave other values"
                assert checkpoints.progress(2) == progress_of(2, 2.0), f"{name} gave another record"
            except DamagedCheckpoint as error:
                assert "\n" not in str(error)
                found.append(str(name))

        # Training continues from the newest good step, and can save again.
        with Checkpoints(directory) as checkpoints:
            caplog.clear()
            restored, progress = checkpoints.restore_newest(layout)
            good = 1 if str(name) in found else 2
            assert (progress, content(restored)) == (progress_of(good, float(good)), content(states[good])), name
            assert ("Checkpoint 2" in caplog.text and "damaged" in caplog.text) == (good == 1), name
            assert (directory.parent / "damaged").exists() == (good == 1)
            for step in range(good + 1, 5):
                checkpoints.save(states[2], progress_of(step, 0.5))
            checkpoints.wait()
            assert checkpoints.steps()[-2:] == [3, 4]
            assert good in checkpoints.steps(), f"the best is gone after damage to {name}"
            assert content(checkpoints.restore(4, layout)) == content(states[2])
    assert any("record" in name for name in found)
    assert any("state" in name and "/d/" in name for name in found), found


@pytest.mark.usefixtures("late_reads_are_quiet")
@pytest.mark.parametrize("old_and_new", [("kernel", "kernal"), ('"key_type": 2', '"key_type": 1'), ("params", "")])
def test_names_that_orbax_does_not_find_are_damage(two_steps, tmp_path, old_and_new):
    """It gives back what it was asked for in their place, and no array."""
    original, _, layout = two_steps
    directory = pathlib.Path(shutil.copytree(original, tmp_path / "checkpoints"))
    path = directory / "00000002" / "state" / "_METADATA"
    path.write_text(path.read_text().replace(*old_and_new))
    params = layout.players["model"].params
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(DamagedCheckpoint):
            checkpoints.restore(2, params, subtree=("players", "model", "params"))
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.restore_newest(layout)[1].step == 1


@pytest.mark.usefixtures("late_reads_are_quiet")
def test_what_training_removes_while_it_is_read_is_gone_and_not_damaged(two_steps, tmp_path, monkeypatch, caplog):
    original, _, layout = two_steps
    directory = pathlib.Path(shutil.copytree(original, tmp_path / "checkpoints"))
    with Checkpoints(directory, read_only=True) as checkpoints:
        read = checkpoints._read

        def remove_first(step, nested):
            shutil.rmtree(directory / "00000002")
            return read(step, nested)

        monkeypatch.setattr(checkpoints, "_read", remove_first)
        with pytest.raises(RemovedCheckpoint, match="removed for a newer one"):
            checkpoints.restore(2, layout)
        monkeypatch.setattr(checkpoints, "steps", lambda: [1, 2])
        assert checkpoints.best_first() == [1]
    assert not own_messages(caplog)


def test_nothing_good_left_is_said(two_steps, tmp_path):
    original, _, layout = two_steps
    shutil.copytree(original, tmp_path / "checkpoints")
    for path in (tmp_path / "checkpoints").rglob("record/metadata"):
        path.write_bytes(flip_middle(path.read_bytes()))
    damaged = pytest.raises(ValueError, match=r"no good checkpoint: all of steps \[1, 2\] are damaged")
    with Checkpoints(tmp_path / "checkpoints") as checkpoints, damaged:
        checkpoints.restore_newest(layout)
    assert len(list((tmp_path / "damaged").iterdir())) == 2, "nothing is deleted"


def mix(word):
    """The finalizer of MurmurHash3, in integers of any size."""
    word ^= word >> 16
    word = word * 0x85EBCA6B % 2**32
    word ^= word >> 13
    word = word * 0xC2B2AE35 % 2**32
    return word ^ word >> 16


def expected_checksum(array):
    words = array.reshape(-1).view(f"u{array.dtype.itemsize}").tolist()
    return sum(mix((word + index * 0x9E3779B9) % 2**32) for index, word in enumerate(words)) % 2**32


def example_arrays():
    rng = np.random.default_rng(0)
    return {
        "matrix": rng.normal(size=(8, 24)).astype(np.float32),
        "cube": rng.normal(size=(4, 8, 16)).astype(np.float32),
        "half": rng.normal(size=(16, 8)).astype(np.float16),
        "whole": rng.integers(-9, 9, (8, 8), np.int32),
        "truth": rng.integers(0, 2, (8, 3)).astype(bool),
        "scalar": np.float32(2.5),
    }


@pytest.mark.parametrize("large", [2**26, 8])
@pytest.mark.parametrize("name", example_arrays())
def test_checksum_is_that_of_the_formula(name, large, monkeypatch):
    """Also of an array that counts as large, and goes layer by layer."""
    monkeypatch.setattr("seq2seq_jax.training.checkpoint.LARGE", large)
    array = np.asarray(example_arrays()[name])
    assert int(checksum(jnp.asarray(array))) == expected_checksum(array)


@pytest.mark.parametrize("name", example_arrays())
def test_checksum_is_the_sum_of_its_parts(name, monkeypatch):
    """The host computes it, in blocks, of what each process holds."""
    monkeypatch.setattr("seq2seq_jax.training.checkpoint.ELEMENTS_PER_BLOCK", 100)
    array = np.asarray(example_arrays()[name])
    assert checksum_of_part(array, (0,) * array.ndim, array.shape) == expected_checksum(array)
    if array.ndim > 1:
        corners = itertools.product(*((slice(0, size // 3), slice(size // 3, size)) for size in array.shape))
        parts = [
            checksum_of_part(array[corner], tuple(along.start for along in corner), array.shape) for corner in corners
        ]
        assert len(parts) == 2**array.ndim
        assert sum(parts) % 2**32 == expected_checksum(array)
    assert checksums({"x": {"y": jnp.asarray(array)}}) == {"x/y": expected_checksum(array)}


def test_checksum_changes_with_any_bit_and_with_places():
    array = example_arrays()["matrix"]
    original = int(checksum(jnp.asarray(array)))
    sums = {original}
    for place in (0, 100, 191):
        for bit in range(32):
            words = array.view(np.uint32).copy()
            words.reshape(-1)[place] ^= np.uint32(1 << bit)
            sums.add(int(checksum(jnp.asarray(words.view(np.float32)))))
    assert len(sums) == 1 + 3 * 32
    swapped = array.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert int(checksum(jnp.asarray(swapped))) != original
    # Zeros of other signs and numbers that are none differ in bits alone.
    assert int(checksum(jnp.float32(0.0))) != int(checksum(jnp.float32(-0.0)))


def test_checksum_is_the_same_on_every_sharding(tmp_path):
    np.savez(tmp_path / "arrays.npz", **example_arrays())
    script = tmp_path / "sums.py"
    script.write_text(
        textwrap.dedent("""
        import itertools, json, sys
        import jax, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec
        from seq2seq_jax.training.checkpoint import checksums

        found = {}
        assert len(jax.devices()) == 8
        for shape in ((8, 1), (4, 2), (2, 4), (1, 8)):
            mesh = jax.make_mesh(shape, ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
            for name, array in np.load(sys.argv[1]).items():
                for axes in itertools.permutations(("a", "b", None), array.ndim):
                    sizes = [1 if axis is None else mesh.shape[axis] for axis in axes]
                    if not any(length % size for length, size in zip(array.shape, sizes)):
                        placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))
                        found.setdefault(name, []).append(checksums({"x": {"y": placed}})["x/y"])
        print(json.dumps(found))
        """)
    )
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags_for_devices(8),
    }
    printed = subprocess.run(
        [sys.executable, script, tmp_path / "arrays.npz"], env=environment, check=True, capture_output=True, text=True
    ).stdout
    found = json.loads(printed)
    for name, array in example_arrays().items():
        assert set(found[name]) == {expected_checksum(np.asarray(array))}
    assert len(found["matrix"]) > 10
