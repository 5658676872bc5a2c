"""Files: checkpoints, model files, run folders, and readers that trust nothing."""
