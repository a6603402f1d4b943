"""All architectures, by the model_type of their configs."""

from seq2seq_jax.pretrained.families import bart, bert, decoders, g2p, t5, t5gemma, whisper
from seq2seq_jax.pretrained.family import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for module in (bart, t5, t5gemma, whisper, g2p, bert, decoders)
    for family in module.FAMILIES
}
"""model_type -> its architecture."""


def family_of(model_type: object, *, origin: str) -> Family:
    """The architecture of a model_type.

    Raises:
        ValueError: it is not built.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"{origin} has model_type = {model_type!r}; built are {', '.join(sorted(FAMILIES))}.")
    return FAMILIES[model_type]
