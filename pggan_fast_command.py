"""The `pggan-fast` program. It stands outside of the package, whose import brings torch's and takes a second or more:
a Ctrl-C within that ends it with one line, as it does later."""

import os
import signal
from types import FrameType


def main() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from pggan_fast.cli import main as run

    run()


def _leave(number: int, frame: FrameType | None) -> None:
    """At once: nothing is open yet, and an exception in the midst of torch's import may come out as any other."""
    os.write(2, b"pggan-fast: interrupted\n")
    os._exit(128 + number)
