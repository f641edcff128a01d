"""A model on paper: what a step takes on any number of workers, from what it takes on one.

With R workers, each with the same number of examples, a step takes the seconds that it takes on one, and
those in which bytes are on the wire. A sum of E numbers over all sends 2 (R - 1) / R · 4 E bytes through
each, and 2 log₂ R messages one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

UPDATE_EVERY, RARELY = 20, 5  # the defaults of K-FAC: its factors; and their inverses, in updates


def bytes_of_sum(workers: int, numbers: float) -> float:
    """Bytes that each worker sends, and receives, for a sum of so many numbers of 4 bytes over all."""
    return 2 * (workers - 1) / workers * 4 * numbers


@dataclass
class Network:
    """What connects workers.

    Attributes:
        name: For people.
        bandwidth: Bytes in a second.
        latency: Seconds that a message takes.
    """

    name: str
    bandwidth: float
    latency: float

    def sum_over(self, workers: int, numbers: float) -> float:
        """Seconds of a sum of so many numbers of 4 bytes over all workers."""
        sent = bytes_of_sum(workers, numbers)
        return sent / self.bandwidth + 2 * math.ceil(math.log2(workers)) * self.latency


NETWORKS = [
    Network("10 Gbit/s", 1.25e9, 50e-6),
    Network("100 Gbit/s", 12.5e9, 10e-6),
    Network("400 GB/s", 400e9, 5e-6),
]


@dataclass
class Costs:
    """What training a network takes on one worker.

    Attributes:
        parameters: How many it has.
        factors: Numbers of rows of the Kronecker factors.
        adam: Seconds of a step of Adam.
        step: Seconds of a step of K-FAC that updates nothing.
        update: Seconds that an update of the factors adds.
        inversion: Seconds that the inversion of all of them adds.
        crossings: How often numbers as many as the parameters cross in a step of K-FAC; in Adam's, once.
    """

    parameters: int
    factors: list[int]
    adam: float
    step: float
    update: float
    inversion: float
    crossings: float = 1.0

    @property
    def numbers(self) -> int:
        """Of all factors."""
        return sum(n * n for n in self.factors)

    def faster(self, times: float) -> Costs:
        """The same on devices that are so many times as fast."""
        seconds = (self.adam, self.step, self.update, self.inversion)
        return Costs(self.parameters, self.factors, *(s / times for s in seconds), crossings=self.crossings)

    def of_adam(self, workers: int, network: Network) -> float:
        """Seconds of a step of Adam."""
        return self.adam + network.sum_over(workers, self.parameters)

    def of_kfac(self, workers: int, network: Network, shared: bool = False) -> float:
        """Seconds of a step of K-FAC, its updates and inversions spread over their periods.

        Args:
            workers: R.
            network: Between them.
            shared: Whether each inverts the factors that it owns, and sends the inverses to the others.
        """
        step = self.step + network.sum_over(workers, self.crossings * self.parameters)
        inversion = self.of_inversion(workers, network, shared)
        return step + (self.of_update(workers, network) + inversion / RARELY) / UPDATE_EVERY

    def of_update(self, workers: int, network: Network) -> float:
        """Seconds that an update of the factors adds, and their sum over all workers."""
        return self.update + network.sum_over(workers, self.numbers)

    def of_inversion(self, workers: int, network: Network, shared: bool) -> float:
        """Seconds that the inversions add, on each worker or shared out."""
        if not shared:
            return self.inversion
        return self.inversion * largest_share(self.factors, workers) + network.sum_over(workers, self.numbers)

    def shared_pays(self, workers: int, network: Network) -> bool:
        """True if sharing out inversions is faster."""
        return self.of_inversion(workers, network, True) < self.of_inversion(workers, network, False)

    def period(self, workers: int, network: Network, overhead: float = 0.1) -> int:
        """Steps between two updates, so that these and inversions take at most a share of Adam's step."""
        shared = self.shared_pays(workers, network)
        refresh = self.of_update(workers, network) + self.of_inversion(workers, network, shared) / RARELY
        return math.ceil(refresh / (overhead * self.of_adam(workers, network)))

    def traffic(self) -> float:
        """What K-FAC sends for each byte that Adam sends, at any number of workers."""
        return self.crossings + self.numbers / UPDATE_EVERY / self.parameters

    def growth(self, workers: int, network: Network) -> float:
        """How many times K-FAC's step grows from one worker to R, over how many times Adam's does."""
        kfac = self.of_kfac(workers, network, self.shared_pays(workers, network)) / self.of_kfac(1, network)
        return kfac / (self.of_adam(workers, network) / self.of_adam(1, network))


def largest_share(sizes: list[int], workers: int) -> float:
    """The part of all inversions, n³ each, that the worker with most has; the largest are given out first."""
    loads = [0.0] * min(workers, len(sizes))
    for size in sorted(sizes, reverse=True):
        loads[loads.index(min(loads))] += size**3
    return max(loads) / sum(loads)
