"""From a slot's law to the cycle time: loads and their rounds, barriers, cycles."""
