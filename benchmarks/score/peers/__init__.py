"""What people would use instead, a file each, run in an environment of its own (`<name>.txt` pins it)."""
