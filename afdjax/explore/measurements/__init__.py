"""Measured tables in place of the cost model, and constants fitted to them."""
