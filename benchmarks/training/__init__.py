"""Training runs compared: a fixed rubric against Regrade, the same seeds and steps."""
