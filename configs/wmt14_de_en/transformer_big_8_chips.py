"""WMT 2014 German to English, Transformer-big on 8 chips: the batch of Vaswani et al. 2017, 16 rows of 256 a chip.

transformer_big as it is, every field: batches of 32,768 target positions, about 25,000 tokens in the paper, 300,000
steps, peak learning rate (1024 x 4000)^-0.5. Published for the other direction on newstest2014: 28.4 tokenised BLEU,
3.5 days on 8 P100 GPUs (Vaswani et al. 2017); the same in under 5 hours on 8 V100 GPUs with half precision and
gradients gathered over batches as large as those of transformer_big_64_chips (Ott et al. 2018). Not measured.

    seq2seq train wmt14_de_en/transformer_big_8_chips --data.directory DIR    # prepared as transformer_big says
"""

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    return load_config_by_name("wmt14_de_en/transformer_big")
