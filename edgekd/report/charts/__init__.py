"""Charts as inline SVG, by topic."""
