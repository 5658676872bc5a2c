"""What one run leaves: scores, table, figures and curves."""
