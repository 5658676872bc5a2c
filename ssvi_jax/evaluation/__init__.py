"""Results, figures and reports of one run, under shift, and of several methods."""
