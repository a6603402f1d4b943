"""AN4 (CMU; connected speech, as cepstra): Transformer with joint CTC and attention, for 2 CPU cores.

    seq2seq train an4/transformer_ctc --data.directory DIR    # DIR has train.tsv, train.cepstra.f32, dev.tsv, ...

845 utterances, 37 minutes of people who spell names, addresses and numbers. Speed perturbation needs samples, which
cepstra are not: frames are interpolated to other tempos instead. Words are tokens: there are some hundred.

Word error rate on dev (103 utterances of other speakers) after 3,600 steps, 84 minutes of one core of an AMD EPYC
without AVX-512: 18.60% with CTC (weight 0.7); 19.93% by CTC alone, 44.19% by attention alone. The target was 18%;
an4/listen_attend_spell has fewer errors. docs/tasks/speech.md has more.
"""

from seq2seq_jax.data.audio.augmentation import FeatureAugmentationConfig, SpeedPerturbation
from seq2seq_jax.data.audio.features import SpeechFeatures
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.front_end import FeaturesConfig, SpecAugmentConfig
from seq2seq_jax.objectives.joint_ctc import JointCtcConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"model_dim": 144, "num_heads": 4, "hidden_dim": 576, "dropout": 0.2}
    return Experiment(
        data=SpeechFeatures(
            directory="data/speech/an4",
            stride=4,
            max_source_length=192,
            max_target_length=32,
            augmentation=FeatureAugmentationConfig(tempo=SpeedPerturbation()),
        ),
        tokenizer=TokenizerConfig(kind="words", vocabulary_size=200, byte_fallback=False, normalization="nfkc"),
        model=ModelConfig(
            front_end=FeaturesConfig(
                features=13,
                deltas=2,
                normalization="segment",
                spec_augment=SpecAugmentConfig(max_time_mask=30, max_frequency_mask=3),
            ),
            encoder=TransformerEncoderConfig(num_layers=6, **stack),
            decoder=TransformerDecoderConfig(num_layers=2, **stack),
            tied_embeddings="decoder",
            ctc=True,
            precision="bfloat16_products",
        ),
        objective=JointCtcConfig(ctc_weight=0.3, label_smoothing=0.1),
        optimizer=AdamWConfig(
            learning_rate=2e-3, schedule="cosine", warmup_steps=400, final_fraction=0.02, ema_decay=0.995
        ),
        training=TrainingConfig(
            steps=3_600, target_tokens_per_batch=24 * 32, log_every=50, checkpoint_every=900, evaluate_every=900
        ),
        generation=BeamSearch(beam_size=8, ctc_weight=0.7, maximum_length_ratio=0.35, maximum_length_extra=5),
    )
