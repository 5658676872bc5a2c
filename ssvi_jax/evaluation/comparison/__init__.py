"""Several methods over several seeds: trained, evaluated and put into one table."""
