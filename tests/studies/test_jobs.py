"""Jobs of a study: each once, by one of several at once, whatever fails or is killed."""

import collections
import os
import signal
import subprocess
import threading

import pytest

from studies.jobs import PREEMPTED, Claim, JobArguments, Jobs, TrainingJobArguments, carry_out


class Noted(Jobs):
    """Jobs that note when they are done; those in `failing` fail."""

    def __init__(self, directory, needs, failing=()):
        super().__init__(directory)
        self.noted, self.failing = [], set(failing)
        for name, needed in needs.items():
            self.add(name, lambda claim, name=name: self.work(claim, name), *needed)

    def work(self, claim, name):
        assert claim.path == self.directory / "runs" / name
        self.noted.append(name)
        if name in self.failing:
            raise RuntimeError(f"{name} is\nbroken")
        return {"name": name}


NEEDS = {"best": ("a/seed=0", "b"), "a/seed=0": ("data",), "data": (), "b": (), "c": ("b",)}


def states(jobs):
    return {line[17:]: line[:16].split(" in ")[0].strip() for line in jobs.states(jobs.jobs)}


def test_each_is_done_once_after_what_it_needs(tmp_path):
    jobs = Noted(tmp_path, NEEDS)
    assert set(states(jobs).values()) == {"open"}
    assert jobs.do(jobs.matching(["a*"])) == {}
    assert jobs.noted == ["data", "a/seed=0"]
    assert jobs.result("a/seed=0") == {"name": "a/seed=0", "seconds": 0} and jobs.result("b") is None
    again = Noted(tmp_path, NEEDS)
    again.do(again.jobs)
    assert again.noted == ["b", "best", "c"]
    assert set(states(again).values()) == {"done"}


def test_one_that_fails_takes_with_it_those_that_need_it_alone_and_is_tried_again_by_the_next_call(tmp_path, capsys):
    jobs = Noted(tmp_path, NEEDS, failing={"data"})
    assert jobs.do(jobs.jobs) == {"data": "data is broken"}
    assert jobs.noted == ["data", "b", "c"]
    assert "data failed: data is broken" in capsys.readouterr().err
    assert states(jobs) == {"best": "open", "a/seed=0": "open", "data": "failed", "b": "done", "c": "done"}
    jobs.failing.clear()
    assert jobs.do(jobs.jobs) == {}
    assert jobs.noted[3:] == ["data", "a/seed=0", "best"] and set(states(jobs).values()) == {"done"}


def test_several_share_the_jobs_and_wait_for_what_they_need_of_each_other(tmp_path):
    """Both first jobs end only when both are under way, so that neither is done by one after the other."""
    meeting = threading.Barrier(2, timeout=30)
    done, lock = collections.Counter(), threading.Lock()

    def study():
        jobs = Jobs(tmp_path)

        def work(name):
            if name in ("one", "two"):
                meeting.wait()
            with lock:
                done[name] += 1
            return {}

        for name, needs in {"one": (), "two": (), "three": ("one", "two"), "four": ("three",)}.items():
            jobs.add(name, lambda claim, name=name: work(name), *needs)
        return jobs

    def take_part(failed):
        jobs = study()
        failed.append(jobs.do(jobs.jobs, wait=0.01))

    results = []
    threads = [threading.Thread(target=take_part, args=(results,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [{}, {}]
    assert done == {"one": 1, "two": 1, "three": 1, "four": 1}


def test_a_job_stays_claimed_until_its_command_has_ended_though_who_started_it_has_gone(tmp_path):
    jobs = Noted(tmp_path, {"a": ()})
    os.mkfifo(tmp_path / "pipe")
    with jobs._claimed("a") as claim:
        running = threading.Thread(target=claim.run, args=(["cat", str(tmp_path / "pipe")],))
        running.start()
        # Open once the program reads it.
        pipe = open(tmp_path / "pipe", "w")
    assert states(jobs) == {"a": "under way"}
    pipe.close()
    running.join(30)
    assert states(jobs) == {"a": "open"}


def test_a_training_that_was_ended_early_is_not_done(tmp_path, monkeypatch):
    claim, statuses = Claim(tmp_path, 0), [0, 0, 3]
    monkeypatch.setattr(claim, "run", lambda words: statuses.pop(0))
    claim.seq2seq("train", "config")
    (tmp_path / PREEMPTED).write_text("20\n")
    with pytest.raises(ValueError, match="train config was ended before its last step"):
        claim.seq2seq("train", "config")
    with pytest.raises(ValueError, match="evaluate run ended with status 3"):
        claim.seq2seq("evaluate", "run")


def test_what_is_under_way_is_asked_to_end_with_the_study(tmp_path, monkeypatch):
    asked = []

    class Interrupted:
        def __init__(self, words, pass_fds):
            asked.append(words)

        def wait(self):
            asked.append("wait")
            if asked.count("wait") == 1:
                raise KeyboardInterrupt

        def terminate(self):
            asked.append("terminate")

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        Claim(tmp_path, 0).run(["program"])
    assert asked == [["program"], "wait", "terminate", "wait"]


def test_the_command_says_what_failed_and_lists_without_doing(tmp_path, capsys):
    jobs, shown, before = Noted(tmp_path, NEEDS, failing={"b"}), [], signal.getsignal(signal.SIGTERM)
    carry_out(jobs, JobArguments(action="list"), lambda: shown.append("table"))
    carry_out(jobs, JobArguments(action="table"), lambda: shown.append("table"))
    assert jobs.noted == [] and shown == ["table"] and capsys.readouterr().out.count("open") == 5
    with pytest.raises(ValueError, match=r"1 job\(s\) failed, .* b: b is broken\. More is in"):
        carry_out(jobs, JobArguments(only=("c", "data")), lambda: shown.append("table"))
    assert shown == ["table", "table"] and jobs.noted == ["data", "b"]
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(ValueError, match="--only nothing is no job; there are best, a/seed=0, data, b, c"):
        carry_out(jobs, JobArguments(only=("nothing",)), lambda: None)


def test_further_options_as_training_takes_them():
    options = TrainingJobArguments(options=("training.steps=20", "--model.precision=float32", "flag")).words
    assert options == ["--training.steps", "20", "--model.precision", "float32", "--flag"]
    arguments = TrainingJobArguments(options=("model.precision=float32",))
    assert arguments.words_of("multi30k/preference") == ["--model.precision", "float32"]
    assert arguments.words_of("multi30k/adversarial_bleu") == [
        "--model.precision", "float32", "--objective.discriminator.model.precision", "float32",
    ]  # fmt: skip
    assert TrainingJobArguments().words_of("multi30k/adversarial") == []
