"""Profiles itself by Pyroscope's client, as the test of ingest that runs it says: client.py URL TOKEN SECONDS"""

import sys
import time

import pyroscope


def busy_work(n):
    total = 0
    for i in range(n):
        total += i * i
    return total


url, token, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
pyroscope.configure(
    application_name="python.test",
    server_address=url,
    basic_auth_username="quantra",
    basic_auth_password=token,
    tenant_id="acme",
    tags={"region": "eu", "service.version": "v1"},
)
until = time.monotonic() + seconds
with pyroscope.tag_wrapper({"controller": "busy"}):
    while time.monotonic() < until:
        busy_work(100_000)
pyroscope.shutdown()  # sends what it has
