"""Tasks: what is searched for, with its configuration, final training, networks and tables."""
