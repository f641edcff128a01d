"""A model on paper: what a step takes on any number of workers, from what it takes on one.

With R workers, each with the same number of examples, a step takes the seconds that it takes on one, and
those in which bytes are on the wire. A sum of E numbers over all sends 2 (R - 1) / R · 4 E bytes through
each, and 2 log₂ R messages one after the other, however few the numbers are. An update is as long as on one
worker: there are fewer examples in the part of each, and the wide factors are made of those of all.
"""

from __future__ import annotations

import dataclasses
import math

from kfisher.curvature import KFAC
from kfisher.curvature._sharing import owners

EXAMPLES = 64  # of each worker in each step

# Sums over all workers that wait for one another: in a step of Adam; in one of K-FAC, in an update of its
# factors and in an inversion, and in what sends the inverses where these are shared out. With batches of one
# size from data that do not end: else TensorFlow asks in each step, with Adam too, who has a batch, and K-FAC
# how many examples each has.
ADAM, STEP, UPDATE, INVERSION, SENDING = 1, 2, 2, 1, 2


def bytes_of_sum(workers: int, numbers: float) -> float:
    """Bytes that each worker sends, and receives, for a sum of so many numbers of 4 bytes over all."""
    return 2 * (workers - 1) / workers * 4 * numbers


def numbers_of_update(factors: list[int], workers: int) -> int:
    """Numbers that are summed over all workers for an update of factors with so many rows.

    Half of each factor; or its examples where these are always fewer numbers: every k-th of the whole batch,
    so that there are less than twice `max_examples`.
    """
    limit, whole = KFAC().max_examples, EXAMPLES * workers
    taken = math.ceil(whole / max(whole // limit, 1))
    return sum(taken * n if 2 * (2 * limit - 1) <= n + 1 else n * (n + 1) // 2 for n in factors)


@dataclasses.dataclass
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

    def sum_over(self, workers: int, numbers: float, sums: int = 1) -> float:
        """Seconds of so many sums, of so many numbers of 4 bytes together, over all workers."""
        waits = sums * 2 * math.ceil(math.log2(workers)) * self.latency
        return bytes_of_sum(workers, numbers) / self.bandwidth + waits


NETWORKS = [
    Network("10 Gbit/s", 1.25e9, 50e-6),
    Network("100 Gbit/s", 12.5e9, 10e-6),
    Network("400 GB/s", 400e9, 5e-6),
]


@dataclasses.dataclass
class Costs:
    """What training a network takes on one worker.

    Attributes:
        parameters: How many it has.
        factors: Numbers of rows of the Kronecker factors.
        adam: Seconds of a step of Adam.
        step: Seconds of a step of K-FAC that updates nothing.
        update: Seconds that an update of the factors adds.
        inversion: Seconds that the inversion of all of them adds.
        updates, inversions: How many there are in a step, after the first ones.
    """

    parameters: int
    factors: list[int]
    adam: float
    step: float
    update: float
    inversion: float
    updates: float
    inversions: float

    @property
    def numbers(self) -> int:
        """Of the triangles of all inverses, as these are symmetric."""
        return sum(n * (n + 1) // 2 for n in self.factors)

    def faster(self, times: float) -> Costs:
        """The same on devices that are so many times as fast."""
        seconds = {name: getattr(self, name) / times for name in ("adam", "step", "update", "inversion")}
        return dataclasses.replace(self, **seconds)

    def of_adam(self, workers: int, network: Network) -> float:
        """Seconds of a step of Adam."""
        return self.adam + network.sum_over(workers, self.parameters, ADAM)

    def of_kfac(self, workers: int, network: Network) -> float:
        """Seconds of a step of K-FAC, with its part of updates, and of inversions where these are cheaper."""
        step = self.step + network.sum_over(workers, self.parameters, STEP)
        shared = self.shared_pays(workers, network)
        inversion = self.inversions * self.of_inversion(workers, network, shared)
        return step + self.updates * self.of_update(workers, network) + inversion

    def of_update(self, workers: int, network: Network) -> float:
        """Seconds that an update of the factors adds, and their sum over all workers."""
        numbers = numbers_of_update(self.factors, workers)
        return self.update + network.sum_over(workers, numbers, UPDATE)

    def of_inversion(self, workers: int, network: Network, shared: bool) -> float:
        """Seconds that the inversions add: on each worker, or where each has its part and sends it around."""
        agreement = network.sum_over(workers, 0, INVERSION)
        if not shared:
            return self.inversion + agreement
        sent = network.sum_over(workers, self.numbers, SENDING)
        return self.inversion * largest_share(self.factors, workers) + sent + agreement

    def shared_pays(self, workers: int, network: Network) -> bool:
        """True if sharing out inversions is faster."""
        return self.of_inversion(workers, network, True) < self.of_inversion(workers, network, False)

    def bandwidth_for_sharing(self, workers: int) -> float:
        """Bytes in a second from which on sharing out pays, where messages take no time."""
        saved = self.inversion * (1 - largest_share(self.factors, workers))
        return bytes_of_sum(workers, self.numbers) / saved if saved > 0 else math.inf

    def period(self, workers: int, network: Network, overhead: float = 0.1) -> int:
        """Steps between two updates, so that these and inversions take at most a share of Adam's step."""
        shared = self.shared_pays(workers, network)
        inversion = self.inversions / self.updates * self.of_inversion(workers, network, shared)
        refresh = self.of_update(workers, network) + inversion
        return math.ceil(refresh / (overhead * self.of_adam(workers, network)))

    def traffic(self, workers: int) -> float:
        """What K-FAC sends for each byte that Adam sends."""
        return 1 + self.updates * numbers_of_update(self.factors, workers) / self.parameters

    def growth(self, workers: int, network: Network) -> float:
        """How many times K-FAC's step grows from one worker to R, over how many times Adam's does."""
        kfac = self.of_kfac(workers, network) / self.of_kfac(1, network)
        return kfac / (self.of_adam(workers, network) / self.of_adam(1, network))


def largest_share(sizes: list[int], workers: int) -> float:
    """The part of all inversions, n³ each, that the worker with most has."""
    work = [float(size) ** 3 for size in sizes]
    loads = [0.0] * workers
    for cost, owner in zip(work, owners(work, workers)):
        loads[owner] += cost
    return max(loads) / sum(work)
