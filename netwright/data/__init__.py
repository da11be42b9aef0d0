"""Data: read, split by seed, and kept so that a search cannot see the test set."""
