"""Timing sessions: the load, the statistics, the host and the stage that joins them."""
