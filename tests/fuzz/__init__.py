"""Mutated inputs for everything that reads files or command lines of others.

`mutate` changes valid inputs, `targets` (and `model_targets`) say what reads them and
what a right answer is, `guard` watches the reading, and `run` is the long mode::

    python -m tests.fuzz.run --out results/fuzz
"""
