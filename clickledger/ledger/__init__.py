"""What happened: the log, append, authority, billing, provenance and proofs. Knows nothing of models."""
