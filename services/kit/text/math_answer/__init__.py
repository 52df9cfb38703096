"""Mathematical answers: notation is unified, the whole text is read into a structure, and structures are compared."""
