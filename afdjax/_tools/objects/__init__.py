"""What the objects of the package have in common: numbers as fields, arguments that are checked, a short text of themselves."""
