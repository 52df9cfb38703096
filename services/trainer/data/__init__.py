"""Prompts to train and evaluate on: sources of rows, mapping of rows to examples, scopes of prompts."""
