"""Reports, drawn from the journal alone."""
