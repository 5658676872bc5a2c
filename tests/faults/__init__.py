"""Faults that strike a training, and what must be true after each of them.

`plans` draws what happens and when, `child` is the process that it happens to, `strike`
brings the two together, `checks` compares with an undisturbed run, and `run` is the
long mode::

    python -m tests.faults.run --faults 200 --out results/faults
"""
