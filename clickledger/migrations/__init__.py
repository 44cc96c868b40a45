"""The schema, from empty, in steps."""
