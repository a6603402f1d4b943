"""A model that was trained here has a config and names of its architecture there, or a reason why not."""

import dataclasses

import pytest
from architectures import transformer

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.pretrained.checkpoint import unboxed_shapes
from seq2seq_jax.pretrained.registry import FAMILIES

VOCABULARY = Vocabulary(source_size=12, target_size=12, joint=True, pad_id=0, bos_id=2, eos_id=3)
T5 = {
    "positions": "relative", "relative_buckets": 8, "relative_max_distance": 12, "normalization": "rms",
    "attention_bias": False, "attention_scale": 1.0, "feed_forward_bias": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "model", "changes"),
    [
        ("pegasus", transformer(), {}),
        ("pegasus", transformer(positions="learned", max_positions=20), {"logit_bias": True}),
        ("pegasus", transformer(encoder={"dropout": 0.4}), {}),
        ("marian", transformer(norm_position="post"), {"logit_bias": True}),
        ("t5", transformer(tied_embeddings="inputs", **T5), {"scaled_embeddings": "none"}),
    ],
)
def test_all_parameters_have_names(model_type, model, changes):
    family, model = FAMILIES[model_type], dataclasses.replace(model, **changes)
    config = family.config_of(model, VOCABULARY, longest=20)
    names = {*family.own_tensors(model, config), *family.optional_names(model)}
    described = family.describe(family.values(config, origin="config.json"), names, origin="config.json")
    found = {path for entry in family.table(described) for path in entry.paths}
    shapes = unboxed_shapes(model.build(VOCABULARY))
    assert found == {path for path in shapes if not path.endswith("embedding/table") and path != "output/table"}
    for side in ("encoder", "decoder"):
        there, here = getattr(described, side), getattr(model, side)
        assert dataclasses.replace(there, dropout=here.dropout, head_dim=here.head_dim) == here


def test_a_tied_output_that_is_not_scaled_is_no_t5():
    model = dataclasses.replace(transformer(**T5), scaled_embeddings="none")
    with pytest.raises(ValueError, match=r"^model.tied_embeddings is 'all' without model.logit_scale"):
        FAMILIES["t5"].config_of(model, VOCABULARY, longest=20)
