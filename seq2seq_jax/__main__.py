"""python -m seq2seq_jax is the command seq2seq."""

from seq2seq_jax.commands.main import main

if __name__ == "__main__":
    main()
