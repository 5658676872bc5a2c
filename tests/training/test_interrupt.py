import os
import signal
import subprocess
import sys
import threading

import pytest
import smoke_run

from ssvi_jax.training.interrupt import Interrupt, wait

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request(number):
    said, before = [], signal.getsignal(number)
    with Interrupt(said.append) as interrupt:
        assert interrupt.requested == 0
        os.kill(os.getpid(), number)
        assert interrupt.requested == number
    assert len(said) == 1
    assert "saved first" in said[0]
    assert signal.getsignal(number) == before


def test_handlers_are_put_back_after_an_error():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError), Interrupt(print):
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_inside_a_write_is_a_request_all_the_same():
    def notify(text):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    with Interrupt(notify) as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested == signal.SIGINT


TWICE = """
import os, sys, time
from ssvi_jax.training.interrupt import Interrupt
with Interrupt(lambda text: print(text, flush=True)):
    for number in sys.argv[1:]:
        os.kill(os.getpid(), int(number))
    print("still here")
"""


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGTERM, signal.SIGTERM, 143),
        (signal.SIGINT, signal.SIGTERM, 143),
    ],
)
def test_the_second_signal_ends_the_process(first, second, code):
    done = subprocess.run(
        [sys.executable, "-c", TWICE, str(int(first)), str(int(second))],
        env=os.environ | {"PYTHONPATH": str(smoke_run.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert done.stdout.startswith("stopping: ")
    assert "still here" not in done.stdout
    assert done.stderr == "stopped; continue with --resume\n"


class Pending:
    """An array that is ready after some looks."""

    def __init__(self, looks):
        self.looks = looks

    def is_ready(self):
        self.looks -= 1
        return self.looks < 0


def test_waiting_ticks_until_the_result_is_there():
    ticks = []
    wait(Pending(3), lambda: ticks.append(1))
    assert len(ticks) == 3
    wait(Pending(0))


def test_signals_are_handled_while_waiting():
    timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM))
    with Interrupt(lambda text: None) as interrupt:

        class Result:
            def is_ready(self):
                return interrupt.requested == signal.SIGTERM

        timer.start()
        wait(Result())
    timer.join()
    assert interrupt.requested == signal.SIGTERM
