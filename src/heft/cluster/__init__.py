"""Runs that are to be done, one after the other in this process or at once on the nodes of a Ray cluster."""
