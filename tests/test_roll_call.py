"""Processes wait for each other before they train, and name who is missing."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from kerasdl.cluster import Cluster
from kerasdl.errors import InputError
from kerasdl.roll_call import roll_call

pytestmark = pytest.mark.backend_free


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def called(port, ranks, size, timeout):
    """Let some ranks call; return what each was told, `None` for all is well."""

    def call(rank):
        try:
            address = f"127.0.0.1:{port}"
            roll_call(Cluster(rank, size, rank, size, address, "RANK"), timeout)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(call, ranks))


def test_all_go_on_when_all_are_there(port):
    assert called(port, range(4), 4, 20) == [None] * 4
    assert called(port, range(4), 4, 20) == [None] * 4  # the port is free again


def test_who_is_missing_is_named(port):
    chief, other = called(port, (0, 2), 4, 1)
    assert "process 1, 3 of 4 has not joined in 1 s" in chief
    assert "process 2 of 4 could not join" in other


def test_a_stranger_is_not_counted(port):
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(called, port, (0, 1), 3, 2)
        while not told.done():
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\n")
            except OSError:
                pass
        assert "process 2 of 3" in told.result()[0]


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert f"port {port}" in called(port, (0,), 2, 1)[0]
