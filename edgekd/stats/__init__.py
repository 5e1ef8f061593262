"""What may be said of measured numbers, and with what confidence. Numpy alone."""
