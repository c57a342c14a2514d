"""Models as stacks of layers, by what they cost."""
