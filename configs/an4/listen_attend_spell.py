"""AN4: pyramid of LSTMs, LSTM decoder with additive attention, joint CTC, for 2 CPU cores.

    seq2seq train an4/listen_attend_spell --data.directory DIR    # DIR has train.tsv, train.cepstra.f32, dev.tsv, ...

Listen, Attend and Spell (Chan et al. 2016) with two pyramid layers instead of three, and joint CTC; without it:
--objective maximum_likelihood. Data as in an4/transformer_ctc. Word error rate on dev (103 utterances, other speakers)
after 1,500 steps, 40 minutes of one core of an AMD EPYC without AVX-512: 7.97% with CTC (weight 0.7), 6.64% by it alone
(--generation ctc_greedy), 38.70% by attention alone.
"""

import dataclasses

from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.modules.global_attention import AdditiveAttentionConfig


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("an4/transformer_ctc")
    return dataclasses.replace(
        base,
        model=dataclasses.replace(
            base.model,
            front_end=dataclasses.replace(base.model.front_end, convolutions=0),
            encoder=RecurrentEncoderConfig(num_layers=3, pyramid_layers=2, model_dim=160, hidden_dim=160, dropout=0.2),
            decoder=RecurrentDecoderConfig(
                num_layers=1,
                model_dim=160,
                hidden_dim=256,
                attention=AdditiveAttentionConfig(attention_dim=160),
                input_feeding=True,
                dropout=0.2,
            ),
        ),
        training=dataclasses.replace(
            base.training, steps=1_500, target_tokens_per_batch=12 * 32, checkpoint_every=250, evaluate_every=500
        ),
    )
