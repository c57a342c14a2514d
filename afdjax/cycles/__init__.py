"""From a slot's law to the cycle time: loads, barriers, integrals."""
