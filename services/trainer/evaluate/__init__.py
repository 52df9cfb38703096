"""What policies are worth: each task's own measure, a tournament by a judge, and how far that judge can be trusted."""
