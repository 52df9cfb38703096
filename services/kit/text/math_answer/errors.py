"""Why an answer is not compared."""


class Unreadable(ValueError):
    """No reading covers the whole text."""


class Undecided(ArithmeticError):
    """Both answers are read, but whether they are equal cannot be computed."""
