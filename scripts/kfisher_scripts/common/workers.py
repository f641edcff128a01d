"""Several workers of `tf.distribute.MultiWorkerMirroredStrategy` on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def started(command: list[str], count: int, **streams: object) -> Iterator[list[subprocess.Popen]]:
    """`count` processes that run `command`, each told by TF_CONFIG which worker it is; ended with the block.

    Args:
        command: The program and its arguments.
        count: Positive integer.
        streams: As for `subprocess.Popen`.
    """
    addresses = [f"localhost:{port}" for port in free_ports(count)]
    workers = []
    try:
        for index in range(count):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            path = os.pathsep.join(folder for folder in sys.path if folder)
            environment = {**os.environ, "TF_CONFIG": json.dumps(task), "PYTHONPATH": path}
            workers.append(subprocess.Popen(command, env=environment, **streams))
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def run(command: list[str], count: int, seconds: float, show: bool = False) -> list[str]:
    """What each worker printed.

    Args:
        command, count: As for `started`.
        seconds: How long they may take.
        show: Whether they print to the terminal instead.

    Raises:
        RuntimeError: If one fails; the others are ended.
        TimeoutError: If they take longer.
    """
    with tempfile.TemporaryFile("w+") as errors:
        streams = {} if show else {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
        with started(command, count, **streams) as workers:
            ends = time.monotonic() + seconds
            while True:
                codes = [worker.poll() for worker in workers]
                failed = [code for code in codes if code]
                if not failed and None not in codes:
                    return [] if show else [worker.stdout.read() for worker in workers]
                if failed or time.monotonic() > ends:
                    errors.seek(0)
                    told = errors.read()[-4000:]
                    if failed:
                        raise RuntimeError(f"A worker ended with {failed[0]}. {told}")
                    raise TimeoutError(f"The workers took longer than {seconds:g} s. {told}")
                time.sleep(0.1)
