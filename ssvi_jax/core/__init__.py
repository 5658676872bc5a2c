"""The nouns of the library, what is wrong with an input, and paths in nested trees."""
