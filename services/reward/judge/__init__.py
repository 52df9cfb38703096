"""The LLM judge: scores of an item's LLM criteria.

`judge.py` is the entry point. `modes/` holds a file for each way to reach a level, `engine/` one for each kind of
inference server, `prompts/` the texts of the questions.
"""
