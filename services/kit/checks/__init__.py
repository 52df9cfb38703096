"""The catalogue of checks: what each one measures, and how the catalogue proposer sets its parameters."""
