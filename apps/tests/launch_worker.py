"""What execnet starts as a worker's Python: hands its files to a fork of the process that has collected the tests.

Arguments: the address of that process, then those of Python, with which this one goes on where no worker can be forked.
It runs without site-packages, since it only waits.
"""

import os
import socket
import sys


def main() -> None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(sys.argv[1])
        refusal = connection.makefile().readline().strip()
    except ConnectionError as error:
        refusal = f"the process that collects has ended ({error})"
    if refusal:
        sys.stderr.write(f"a worker collects the tests anew: {refusal}\n")
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.argv[2:]])  # noqa: S606
    socket.send_fds(connection, [b"0"], [0, 1, 2])
    # execnet is to see the end of the worker's files when the worker ends
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    connection.recv(1)


main()
