"""Counts primes and profiles itself, for as many seconds as its argument says, for ever without one."""

import os
import sys
import time

import pyroscope


def is_prime(n):
    return all(n % d for d in range(2, int(n**0.5) + 1))


pyroscope.configure(
    application_name="python-example",
    server_address=os.environ.get("PYROSCOPE_SERVER_ADDRESS", "http://localhost:4040"),
)
until = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else "inf")
n = 2
while time.monotonic() < until:
    is_prime(n := n + 1)
pyroscope.shutdown()  # sends what it has
