"""Training runs with a fixed rubric and with Regrade, compared at equal seeds and steps."""
