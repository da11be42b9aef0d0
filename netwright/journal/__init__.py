"""The journal's tables, the lease on them, and what a study remembers of them."""
