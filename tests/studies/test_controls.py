"""What the study of controls asks for, and how it counts."""

import jax.numpy as jnp
import numpy as np
from table_model import random_model

from seq2seq_jax.generation.methods import BeamSearch
from studies.controls import EndlessBeamSearch, first_half, has_phrase, phrase_of, repeats


def test_a_phrase_is_of_the_reference_and_not_in_the_output():
    reference, output = "Ein Mann mit einem Hut, und zwei Hunden.", "Ein Mann mit zwei Katzen."
    phrases = {phrase_of(reference, output, line) for line in range(200)}
    assert phrases >= {"einem", "Hut", "Hunden", "mit einem", "Hut, und", "zwei Hunden"}
    assert not phrases & {"Ein", "Mann", "mit", "zwei", "Ein Mann", "Mann mit"}
    # Where the output has all of them, one that it has.
    assert phrase_of("Ein Mann", "Ein Mann", 0) in {"Ein", "Mann", "Ein Mann"}
    assert has_phrase("ein Hut", "Hut") and not has_phrase("ein Strohhut", "hut") and has_phrase("Hutmacher", "Hut")
    assert first_half(reference) == "Ein Mann mit einem"


def test_repeated_tokens_are_found():
    assert repeats([1, 2, 3, 1, 2], 2) and not repeats([1, 2, 3, 1, 2], 3) and not repeats([1], 3)


def test_searches_that_are_timed_have_equally_many_steps():
    limits = [6, 6]
    calls = []
    for seed in range(2):
        model = random_model(seed, num_sources=2)
        result = EndlessBeamSearch(beam_size=3).generate(model.context(limits))
        assert (np.asarray(result.lengths) == 6).all()
        calls.append(int(jnp.asarray(model.calls)))
        other = random_model(seed, num_sources=2)
        BeamSearch(beam_size=3).generate(other.context(limits))
        assert other.calls <= model.calls
    assert calls == [6, 6]
