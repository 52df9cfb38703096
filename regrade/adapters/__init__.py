"""One file a trainer: functions and mappings that plug Regrade into it, with no dependency of their own."""
