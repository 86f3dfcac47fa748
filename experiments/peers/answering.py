"""How a peer answers `gan_jax.training.turns.peer`."""

import sys
import time


def answer(step, wait=lambda: None):
    """Say that it is ready; then do as many steps as each line of input says, and print the seconds that they took.

    `wait` waits until what was begun on a device is done.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        wait()
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        wait()
        print(time.perf_counter() - start, flush=True)
