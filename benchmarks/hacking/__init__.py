"""`make bench-hacking`: how honest a policy stays under fixed rubrics, the paper's procedure, and Regrade."""
