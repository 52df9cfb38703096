"""`make bench-hacking`: how much of a policy stays honest under fixed rubrics, the paper's procedure, and Regrade."""
