"""Runs as models of CTranslate2."""

import datetime
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seq2seq_jax.data.imported_tokenizer import FILES as TOKENIZER_FILES
from seq2seq_jax.data.store_files import unfinished_directory
from seq2seq_jax.experiment import to_json
from seq2seq_jax.pretrained.ctranslate2_files import Quantization, check_model, scores, tokens_of, write_model
from seq2seq_jax.pretrained.table import flat
from seq2seq_jax.run.description import commit_of_code
from seq2seq_jax.run.exports import LONGEST, Exported
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.kept_logits import CHECK_TOLERANCE, fingerprint, logits_of


def export_ctranslate2(
    run: Inference, output: Path, *, checkpoint: str = "best", quantization: Quantization = "float32"
) -> Exported:
    """A run as a directory that CTranslate2 reads: whole, and its log-probabilities compared, or not there.

    Args:
        output: a directory that is not there.
        checkpoint: best, latest or a step.
        quantization: of weights.

    Raises:
        ValueError: CTranslate2 has no such model, or is not installed; or it computes otherwise.
    """
    check_model(run.experiment.model, name=str(run.directory.path))
    params, step = run.parameters(checkpoint)
    model = run.experiment.model
    params, model = model.merge_lora(params), model.without_lora()
    longest = max(LONGEST, run.experiment.max_source_length, run.experiment.max_target_length)
    check = fingerprint(model.build(run.tokenizer.vocabulary), params, run.tokenizer)
    expected = log_probabilities(model.build(run.tokenizer.vocabulary), params, check["source"], check["target"])
    tokens = tokens_of(run.tokenizer)
    source = [tokens["source"][token] for token in check["source"]]
    target = [tokens["target"][token] for token in check["target"]]
    with unfinished_directory(output.parent, output.name) as unfinished:
        leaves = flat(params)
        write_model(unfinished, model, leaves, run.tokenizer, longest=longest, quantization=quantization)
        found = scores(unfinished, source, target[:-1], quantization=quantization)
        difference = float(np.abs(np.array(found) - expected).max())
        if quantization == "float32" and not difference <= CHECK_TOLERANCE:
            raise ValueError(
                f"CTranslate2 gives other log-probabilities than {run.directory.path}: they differ by up to "
                f"{difference:.3g} nats per token. Report it with the config."
            )
        for path in (*run.directory.path.glob("tokenizer*.model"), *(run.directory.path / TOKENIZER_FILES).glob("*")):
            (unfinished / path.name).write_bytes(path.read_bytes())
        card = _card_of_ctranslate2(run, step=step, quantization=quantization, difference=difference)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        unfinished.rename(output)
    note = f"log-probabilities of a made pair differ by up to {difference:.2g} nats per token"
    return Exported(model_type=f"CTranslate2, {quantization}", num_tensors=len(leaves), notes=(note,))


def log_probabilities(model: Any, params: Any, source: list[int], target: list[int]) -> np.ndarray:
    """Log-probability of each token of a target, in float32."""
    logits = logits_of(model, params, source, target)
    return np.asarray(jax.nn.log_softmax(logits))[np.arange(len(target)), target]


def _card_of_ctranslate2(run: Inference, *, step: int, quantization: str, difference: float) -> str:
    """README.md of a model for CTranslate2."""
    first = [run.tokenizer.target_pieces([token])[0] for token in run.tokenizer.vocabulary.first_ids]
    commit = commit_of_code()
    lines = [
        f"# {run.directory.path.name}",
        "",
        f"A model for CTranslate2 ({quantization}), step {step}, written by seq2seq_jax"
        + (f" (commit {commit})" if commit else "")
        + f" on {datetime.date.today().isoformat()}. Log-probabilities of a made pair differ from its own by up to "
        f"{difference:.2g} nats per token.",
        "",
        "Sources are lists of pieces that end in the EOS token, as the tokenizer beside the weights makes them.",
        *([f"Every target begins with {' '.join(first)}: give it as target_prefix."] if first else []),
        "",
        "```json",
        json.dumps(to_json(run.experiment), indent=1, ensure_ascii=False),
        "```",
        "",
    ]
    return "\n".join(lines)
