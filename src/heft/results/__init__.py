"""What evaluations found: a record for every example, figures from them, the summary of a run. Needs no torch."""
