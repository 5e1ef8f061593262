"""Which samples ranges are measured on, and how."""
