"""Replicas, candidates, and the search for the best plan of every level."""
