"""A verifier of open-instruct whose score comes from Regrade."""

from open_instruct.ground_truth_utils import VerifierFunction

from regrade.adapters.open_instruct import RegradeVerifier


class Regrade(RegradeVerifier, VerifierFunction):
    """Scores rows of the data set named "regrade"."""
