"""The `regrade` command."""
