"""From one table of ranges to explicit Q/DQ, in the form that each target wants."""
