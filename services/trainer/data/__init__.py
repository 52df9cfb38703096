"""Prompts to train and to measure on: where rows come from, what is made of them, which scope they belong to."""
