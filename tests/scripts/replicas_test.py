"""What scripts/benchmark.py says of many workers, and how it counts bytes."""

import socket

import pytest
from kfisher_scripts.benchmarking import wire
from kfisher_scripts.benchmarking.replicas import costs, on_paper, table, verdict
from kfisher_scripts.benchmarking.scaling import (
    INVERSION,
    SENDING,
    STEP,
    UPDATE,
    Costs,
    Network,
    largest_share,
    numbers_of_update,
)
from kfisher_scripts.common import workers

NETWORK = Network("slow", bandwidth=1e6, latency=1e-3)
COSTS = Costs(
    1000, [100, 100], adam=1.0, step=2.0, update=0.5, inversion=0.3, updates=1 / 20, inversions=1 / 100
)
NUMBERS = 100 * 101  # of two triangles


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
    # 2 * 3 / 4 of 4000 bytes, and two messages there and back, for each of the sums
    assert NETWORK.sum_over(4, 1000) == pytest.approx(6e-3 + 4e-3)
    assert NETWORK.sum_over(4, 1000, sums=3) == pytest.approx(6e-3 + 3 * 4e-3)


def test_factors_cross_as_halves_or_as_their_examples_where_these_are_always_fewer():
    for count, examples in ((2, 128), (3, 192), (4, 128), (5, 160), (7, 150), (1024, 128)):
        assert numbers_of_update([509, 508], count) == examples * 509 + 508 * 509 // 2


def test_a_step_is_what_it_takes_on_one_worker_and_what_is_on_the_wire():
    assert COSTS.of_kfac(1, NETWORK) == pytest.approx(2.0 + 0.5 / 20 + 0.3 / 100)
    crossing = NETWORK.sum_over(2, 1000, STEP) + NETWORK.sum_over(2, NUMBERS, UPDATE) / 20
    # An inversion is on one's own, 0.3 s, or half of it and what is sent.
    shared = 0.3 / 2 + NETWORK.sum_over(2, NUMBERS, SENDING)
    agreed = NETWORK.sum_over(2, 0, INVERSION)
    expected = 2.0 + 0.5 / 20 + crossing + (min(0.3, shared) + agreed) / 100
    assert COSTS.of_kfac(2, NETWORK) == pytest.approx(expected)
    assert COSTS.traffic(2) == pytest.approx(1 + NUMBERS / 20 / 1000)


def test_inversions_are_shared_out_where_they_take_longer_than_sending_them():
    # Two equal factors on two workers: half of 0.3 s is saved, and 40 kB cross.
    fast, slow = (Network("", bandwidth, 0.0) for bandwidth in (0.27e6, 0.269e6))
    assert COSTS.shared_pays(2, fast) and not COSTS.shared_pays(2, slow)
    assert COSTS.bandwidth_for_sharing(2) == pytest.approx(4 * NUMBERS / 0.15)
    assert COSTS.bandwidth_for_sharing(1) == float("inf")
    late = Network("", 1e12, 0.15)  # bandwidth alone is not enough
    assert not COSTS.shared_pays(2, late)


def test_the_largest_share_is_that_of_the_fullest_worker():
    assert largest_share([2, 1, 1], 1) == 1
    assert largest_share([2, 1, 1], 2) == largest_share([2, 1, 1], 100) == 8 / 10


def test_updates_keep_within_their_part_of_the_step_of_adam():
    period = COSTS.period(1, NETWORK)
    assert (0.5 + 0.3 / 5) / period <= 0.1 < (0.5 + 0.3 / 5) / (period - 1)


def measured(seconds, received, factors=()):
    """What a worker tells: an update in every tenth step, and once an inversion."""
    updates = [int(bool(factors) and step % 10 == 0) for step in range(60, 160)]
    inversions = [int(bool(factors) and step == 100) for step in range(60, 160)]
    # What else the machine does makes the odd steps slower.
    each = [
        [seconds + 0.5 * u + 0.3 * i + 0.1 * (step % 2), u, i]
        for step, (u, i) in enumerate(zip(updates, inversions))
    ]
    rates = {"updates": sum(updates) / 100, "inversions": sum(inversions) / 100}
    common = {"parameters": 1000, "factors": list(factors), "state": 8000, "bytes": received}
    return {"seconds": seconds, "each": each, **rates, **common}


def test_tables_come_from_what_workers_measured():
    found = {
        1: {"64": {"Adam": measured(1.0, 0), "K-FAC": measured(3.0, 0, [100, 100])}},
        2: {"64": {"Adam": measured(1.0, 4000), "K-FAC": measured(3.0, 8000, [100, 100])}},
    }
    assert costs(found, 64) == Costs(
        1000, [100, 100], 1.0, 3.0, pytest.approx(0.5), pytest.approx(0.3), 0.1, 0.01
    )
    lines = [line.split() for line in table(found, [64]).splitlines()]
    # w, workers, ms of both, ratio, updates, inversions, MB of Adam and by the formula, of K-FAC, ratio, bar
    assert lines[3] == "64 1 1000.0 3000.0 3.00 10 1 0.00 0.00 0.00 0.00 1.00 met".split()
    assert lines[4] == "64 2 1000.0 3000.0 3.00 10 1 0.00 0.00 0.01 0.01 2.00 NOT MET".split()


def test_on_paper_it_is_said_which_bars_are_met_and_where_sharing_out_pays():
    lines = on_paper(64, COSTS).splitlines()
    assert lines[0].endswith("K-FAC's bytes / Adam's 1.50, NOT MET")  # 1.505
    rows = [line for line in lines if "bit/s" in line or "GB/s  " in line]
    (near,) = (line for line in rows if line.startswith("as measured    400 GB/s          8"))
    (far,) = (line for line in rows if line.startswith("100 x as fast  10 Gbit/s      1024"))
    # 3 ms, or half of it and three sums over 1024 workers, each of 20 messages of 0.05 ms
    assert " pays " in near and " pays " not in far
    assert [verdict(n, 1.2) for n in (1.0, 1.2, 1.21)] == ["met", "met", "NOT MET"]
    for line in (line for line in lines if "growth at most" in line):
        largest = float(line.split("growth at most ")[1].split(",")[0])
        assert f"{largest:.2f}, {verdict(largest, 1.2)};" in line


def test_ports_are_free_and_differ():
    ports = workers.free_ports(3)
    assert len(set(ports)) == 3
