"""How we correct: detection, incidents, rollback, replay, comparison and publication."""
