"""Training loops and their schedules."""
