"""What we decide: click intake, features, model, training, calibration, decisions and the scoring worker."""
