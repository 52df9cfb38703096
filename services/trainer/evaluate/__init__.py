"""Comparing trained policies: task metrics, a pairwise tournament judged by an LLM, and the validity of a judge."""
