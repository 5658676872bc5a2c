"""The report of an evaluation under shift: figures, tables and one HTML page.

Everything is made from results.json and examples.npz, so it can be made again.
"""
