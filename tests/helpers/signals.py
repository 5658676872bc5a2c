"""A signal that arrives at a chosen step of a training."""

import signal

from ssvi_jax.io import run_log


def signal_at(monkeypatch, step, number):
    """Sends this process a signal when the phase that ends at `step` is logged."""
    append = run_log.RunLog.append

    def send(self, event):
        append(self, event)
        if event["event"] == "phase" and event["step"] == step:
            signal.raise_signal(number)  # os.kill may reach another thread, later

    monkeypatch.setattr(run_log.RunLog, "append", send)
