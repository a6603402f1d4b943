"""How text is generated: a config a method. None imports anything heavy, as the help of a command asks for them."""

from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.generation.methods.ctc import CtcBeamSearch, CtcGreedy
from seq2seq_jax.generation.methods.diverse_beam_search import DiverseBeamSearch
from seq2seq_jax.generation.methods.greedy import Greedy
from seq2seq_jax.generation.methods.minimum_bayes_risk import MinimumBayesRisk
from seq2seq_jax.generation.methods.mixture_of_experts import MixtureOfExperts
from seq2seq_jax.generation.methods.sampling import Sampling
from seq2seq_jax.generation.methods.stochastic_beam_search import StochasticBeamSearch

Method = (
    BeamSearch
    | Greedy
    | Sampling
    | DiverseBeamSearch
    | StochasticBeamSearch
    | MinimumBayesRisk
    | MixtureOfExperts
    | CtcGreedy
    | CtcBeamSearch
)
"""The methods that a config may name; the first is that of runs from before there were others."""
