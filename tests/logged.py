"""What this project has logged."""


def own_messages(caplog):
    """Messages of this project's loggers alone: on a busy machine Orbax warns of slow saves."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("seq2seq_jax")]
