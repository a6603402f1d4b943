"""Sources of speech: recordings, features that are given, and strings of recorded digits."""
