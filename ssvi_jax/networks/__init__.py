"""What a network computes: Flax models, their layers' products, factors, members."""
