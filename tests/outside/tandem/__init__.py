"""A package that is not part of seq2seq_jax: an objective with two players, an encoder, a data source and an
optimizer, each of which stands in a config (../hide_length.py) like those of seq2seq_jax.
"""
