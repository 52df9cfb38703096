"""Measurements beside the tests: what a judged item costs here, and what it costs elsewhere."""
