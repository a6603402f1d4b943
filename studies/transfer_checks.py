"""python -m studies.transfer_checks RUN ORIGIN: what training has left bit for bit, and what LoRA changed."""

import json
import sys
from typing import Any

import numpy as np

from seq2seq_jax.pretrained.table import flat
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.kept_logits import fingerprint, logits_of


def unchanged(params: Any, origin: Any) -> dict[str, Any]:
    """How many arrays are the origin's bit for bit, and the paths of the others that the origin has."""
    own, there = flat(params), flat(origin)
    common = [path for path in own if path in there and own[path].shape == there[path].shape]
    other = [path for path in common if np.asarray(own[path]).tobytes() != np.asarray(there[path]).tobytes()]
    return {"arrays": len(own), "of the origin": len(common), "bit for bit": len(common) - len(other), "others": other}


def lora(run: Inference, params: Any) -> dict[str, Any]:
    """What merging changes, and the fraction of the parameters that is trained."""
    config, vocabulary = run.experiment.model, run.tokenizer.vocabulary
    model, merged = config.build(vocabulary), config.merge_lora(params)
    check = fingerprint(model, params, run.tokenizer)
    before = logits_of(model, params, check["source"], check["target"])
    after = logits_of(config.without_lora().build(vocabulary), merged, check["source"], check["target"])
    sizes = {path: values.size for path, values in flat(params).items()}
    return {
        "largest logit": float(np.abs(before).max()),
        "largest difference when merged": float(np.abs(before - after).max()),
        "fraction that is LoRA": sum(size for path, size in sizes.items() if "/lora_" in path) / sum(sizes.values()),
    }


def main(arguments: list[str]) -> None:
    """Compare the last checkpoint of a run with its origin, and print what was found as JSON."""
    if len(arguments) != 2:
        raise SystemExit("python -m studies.transfer_checks needs a RUN and its ORIGIN.")
    run, origin = map(Inference.open, arguments)
    params, _ = run.parameters("latest")
    found = unchanged(params, origin.parameters()[0])
    if run.experiment.model.has_lora:
        found |= lora(run, params)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
