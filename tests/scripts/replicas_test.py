"""What scripts/benchmark.py says of many workers, and how it counts bytes."""

import socket

import pytest
from kfisher_scripts.benchmarking import wire
from kfisher_scripts.benchmarking.replicas import costs, on_paper, table
from kfisher_scripts.benchmarking.scaling import Costs, Network, largest_share
from kfisher_scripts.common import workers

NETWORK = Network("slow", bandwidth=1e6, latency=1e-3)
COSTS = Costs(1000, [100, 100], adam=1.0, step=2.0, update=0.5, inversion=0.3)


def test_bytes_are_those_of_the_connections_of_this_process():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        listening.listen()
        with socket.create_connection(listening.getsockname()) as sender:
            receiver, _ = listening.accept()
            with receiver:
                before = wire.received()
                sender.sendall(bytes(1000))
                receiver.recv(1000, socket.MSG_WAITALL)
                assert wire.received() - before == 1000


def test_a_sum_sends_each_number_almost_twice_and_waits_for_its_messages():
    assert NETWORK.sum_over(1, 1000) == 0
    # 2 * 3 / 4 of 4000 bytes, and two messages there and back
    assert NETWORK.sum_over(4, 1000) == pytest.approx(6e-3 + 4e-3)


def test_a_step_is_what_it_takes_on_one_worker_and_what_is_on_the_wire():
    assert COSTS.of_kfac(1, NETWORK) == pytest.approx(2.0 + (0.5 + 0.3 / 5) / 20)
    crossing = NETWORK.sum_over(2, 1000) + NETWORK.sum_over(2, 20000) / 20
    assert COSTS.of_kfac(2, NETWORK) - COSTS.of_kfac(1, NETWORK) == pytest.approx(crossing)
    assert COSTS.traffic() == pytest.approx(1 + 20000 / 20 / 1000)


def test_inversions_are_shared_out_where_they_take_longer_than_sending_them():
    # Two equal factors on two workers: half of 0.3 s is saved, and 80 kB cross.
    fast, slow = (Network("", bandwidth, 0.0) for bandwidth in (0.54e6, 0.53e6))
    assert COSTS.shared_pays(2, fast) and not COSTS.shared_pays(2, slow)


def test_the_largest_share_is_that_of_the_fullest_worker():
    assert largest_share([2, 1, 1], 1) == 1
    assert largest_share([2, 1, 1], 2) == largest_share([2, 1, 1], 100) == 8 / 10


def test_updates_keep_within_their_part_of_the_step_of_adam():
    period = COSTS.period(1, NETWORK)
    assert (0.5 + 0.3 / 5) / period <= 0.1 < (0.5 + 0.3 / 5) / (period - 1)


def test_tables_come_from_what_workers_measured():
    def of(seconds, received, factors=()):
        each = {str(step): seconds + (step % 20 == 0) * 0.5 + (step == 100) * 0.3 for step in range(60, 160)}
        common = {"parameters": 1000, "factors": list(factors), "state": 8000, "bytes": received}
        return {"seconds": seconds, "each": each, **common}

    found = {
        1: {"64": {"Adam": of(1.0, 0), "K-FAC": of(3.0, 0, [100, 100])}},
        2: {"64": {"Adam": of(1.0, 4000), "K-FAC": of(3.0, 8000, [100, 100])}},
    }
    assert costs(found, 64) == Costs(1000, [100, 100], 1.0, 3.0, pytest.approx(0.5), pytest.approx(0.3), 1)
    lines = [line.split() for line in table(found, [64]).splitlines()]
    #                 w, workers, ms of both, ratio, MB of Adam and by the formula, of K-FAC, ratio
    assert lines[2] == "64 1 1000.0 3000.0 3.00 0.00 0.00 0.00 0.00 nan".split()
    assert lines[3] == "64 2 1000.0 3000.0 3.00 0.00 0.00 0.01 0.01 2.00".split()
    assert on_paper(64, COSTS).count("shared out") == 24


def test_ports_are_free_and_differ():
    ports = workers.free_ports(3)
    assert len(set(ports)) == 3
