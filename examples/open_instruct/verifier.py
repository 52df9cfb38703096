"""An open-instruct verifier with scores from Regrade."""

from open_instruct.ground_truth_utils import VerifierFunction

from regrade.adapters.open_instruct import RegradeVerifier


class Regrade(RegradeVerifier, VerifierFunction):
    """Scores rows of the dataset named "regrade"."""
