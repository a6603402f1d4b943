"""Weights & Biases and MLflow without a network: what a run sends is found on disk; a continued run adds to it."""

import importlib.util
import json
import struct

import pytest

from seq2seq_jax.training.writers import SERVICES, open_writers

EXPERIMENT = {"training.steps": 3, "model.encoder.class": "TransformerEncoderConfig"}
RECORDS = [
    {"kind": "train", "step": 1, "loss": 2.5, "note": "text"},
    {"kind": "validation", "step": 1, "loss": 3.25, "bleu": 12.5},
]


def needs(name):
    absent = importlib.util.find_spec(SERVICES[name].package) is None
    return pytest.mark.skipif(absent, reason=f"{SERVICES[name].title} is not installed (the extra `{name}`)")


def send(name, directory, records, *, after_step=0, failed=False):
    (writer,) = open_writers([name], directory, after_step=after_step, experiment=EXPERIMENT)
    for record in records:
        writer.write(record)
    writer.close(failed=failed)


@needs("mlflow")
def test_mlflow_has_the_records_in_the_run_directory(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    send("mlflow", tmp_path, RECORDS, failed=True)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    identity = (tmp_path / "mlflow_run_id").read_text()
    run = client.get_run(identity)
    assert run.data.metrics == {"train/loss": 2.5, "validation/loss": 3.25, "validation/bleu": 12.5}
    assert run.data.params == {name: str(value) for name, value in EXPERIMENT.items()}
    assert run.info.status == "FAILED"

    send("mlflow", tmp_path, [{"kind": "train", "step": 2, "loss": 1.5}], after_step=1)
    assert (tmp_path / "mlflow_run_id").read_text() == identity
    assert [(each.step, each.value) for each in client.get_metric_history(identity, "train/loss")] == [
        (1, 2.5),
        (2, 1.5),
    ]
    assert client.get_run(identity).info.status == "FINISHED"


@needs("mlflow")
def test_a_server_of_mlflow_that_fails_ends_no_training(tmp_path, monkeypatch, caplog):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (writer,) = open_writers(["mlflow"], tmp_path, after_step=0, experiment=EXPERIMENT)

    def fail(*arguments, **settings):
        raise mlflow.exceptions.MlflowException("no answer")

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fail)
    for record in RECORDS:
        writer.write(record)
    assert [each.getMessage() for each in caplog.records if "did not take" in each.getMessage()] == [
        "MLflow did not take the record of step 1: no answer. Training continues."
    ]


@needs("wandb")
def test_weights_and_biases_has_the_records_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    send("wandb", tmp_path, RECORDS)
    identity = (tmp_path / "wandb" / "id").read_text()
    send("wandb", tmp_path, [{"kind": "train", "step": 2, "loss": 1.5}], after_step=1)
    assert (tmp_path / "wandb" / "id").read_text() == identity
    rows = [row for file in sorted(tmp_path.glob(f"wandb/offline-run-*/run-{identity}.wandb")) for row in history(file)]
    assert [{name: row.get(name) for name in ("step", "train/loss", "validation/bleu")} for row in rows] == [
        {"step": 1, "train/loss": 2.5, "validation/bleu": None},
        {"step": 1, "train/loss": None, "validation/bleu": 12.5},
        {"step": 2, "train/loss": 1.5, "validation/bleu": None},
    ]


@needs("wandb")
def test_weights_and_biases_writes_offline_without_an_account(tmp_path, monkeypatch):
    from seq2seq_jax.training.writers.weights_and_biases import _has_account

    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not _has_account()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    assert _has_account()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/path")
    assert not _has_account()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert _has_account()


def history(file):
    """The rows of a run that was written offline: a LevelDB log of protocol buffers, behind seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place = file.read_bytes(), 7
    assert data[:4] == b":W&B" and len(data) < 32_768, "one block"
    while place < len(data):
        _, length, kind = struct.unpack_from("<IHB", data, place)
        assert kind == 1, "a record in one piece"
        record = wandb_internal_pb2.Record.FromString(data[place + 7 : place + 7 + length])
        place += 7 + length
        if record.HasField("history"):
            items = [(item.key or ".".join(item.nested_key), item.value_json) for item in record.history.item]
            yield {name: json.loads(value) for name, value in items if not name.startswith("_")}
