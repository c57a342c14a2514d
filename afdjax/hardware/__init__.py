"""Parts: what an accelerator can do at best, data types, and names of devices."""
