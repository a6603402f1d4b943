"""The sub-commands of `seq2seq`, one file each."""
