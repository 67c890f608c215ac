"""Idle CPUs, as a quiet machine has them."""

import os
import threading
import time

_SLEEPS = 24
_SECONDS = 1e-3


def settle() -> None:
    """Have each CPU halt until it does so at once when it is idle.

    A request to /dev/cpu_dma_latency makes the haltpoll governor poll, and it goes on to poll for up to 250 us before
    each halt when the request is over (cpuidle_poll_time() in drivers/cpuidle/cpuidle.c); a halt that lasts longer
    halves that time. Without this the way that is measured next would be as fast as the one that kept CPUs awake.
    """
    threads = [threading.Thread(target=_sleep_on, args=(cpu,)) for cpu in os.sched_getaffinity(0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _sleep_on(cpu: int) -> None:
    os.sched_setaffinity(0, [cpu])
    for _ in range(_SLEEPS):
        time.sleep(_SECONDS)
