"""Data sets small and free enough to travel inside the package."""
