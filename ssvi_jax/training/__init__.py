"""Training loops, where they get examples from, and the command line."""
