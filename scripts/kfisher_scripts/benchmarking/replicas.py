"""K-FAC beside data-parallel Adam on several workers: measured here, and on paper for a thousand."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from kfisher_scripts.benchmarking.scaling import NETWORKS, Costs, bytes_of_sum, numbers_of_update
from kfisher_scripts.common import workers

WIDTHS = (64, 256, 1024)
WORKERS = (1, 2, 3, 4)
ON_PAPER = (8, 64, 256, 1024)
# As fast as this machine, and as an accelerator: everything but the network.
DEVICES = {"as measured": 1.0, "100 x as fast": 100.0}
# Bars: K-FAC's bytes over Adam's, and the growth of its step over that of Adam's.
TRAFFIC, GROWTH = 1.5, 1.2


def run(widths: Sequence[int] = WIDTHS, counts: Sequence[int] = WORKERS) -> None:
    """Prints all tables; one worker is what those on paper are made of."""
    found: dict[int, Any] = {}
    for count in tqdm(counts, unit="cluster"):
        command = [sys.executable, "-m", "kfisher_scripts.benchmarking.worker", *map(str, widths)]
        found[count] = json.loads(workers.run(command, count, seconds=3600)[0].splitlines()[-1])
    print(f"\n{table(found, widths)}\n")
    for width in widths:
        print(on_paper(width, costs(found, width)))


def costs(found: dict[int, Any], width: int) -> Costs:
    """What a step takes on one worker: the fastest of those that update nothing, update, or invert as well.

    Whatever else the machine does makes steps slower only.
    """
    adam, kfac = (found[1][str(width)][name] for name in ("Adam", "K-FAC"))
    plain = min(t for t, updates, inversions in kfac["each"] if not updates + inversions)
    update = min(t for t, updates, inversions in kfac["each"] if updates and not inversions) - plain
    inversion = min(t - plain - updates * update for t, updates, inversions in kfac["each"] if inversions)
    return Costs(
        parameters=adam["parameters"],
        factors=kfac["factors"],
        adam=min(t for t, *_ in adam["each"]),
        step=plain,
        update=max(update, 0.0),
        inversion=max(inversion, 0.0),
        updates=kfac["updates"],
        inversions=kfac["inversions"],
    )


def table(found: dict[int, Any], widths: Sequence[int]) -> str:
    """Measured seconds and bytes beside the formulas."""
    lines = ["784-w-w-10, 64 examples on each worker, steps 60 to 160; MB received by each worker in a step;"]
    lines.append("updates of the factors, and inversions, in these 100 steps")
    lines.append(
        "    w  workers  ms Adam  ms K-FAC  ratio  updates  inversions  MB Adam  formula  MB K-FAC  formula"
        f"  ratio (bar {TRAFFIC})"
    )
    for width in widths:
        for count in found:
            adam, kfac = (found[count][str(width)][name] for name in ("Adam", "K-FAC"))
            numbers = kfac["updates"] * numbers_of_update(kfac["factors"], count)
            crossing = adam["parameters"], kfac["parameters"] + numbers
            megabytes = [
                b / 1e6
                for own, sent in zip((adam, kfac), crossing)
                for b in (own["bytes"], bytes_of_sum(count, sent))
            ]
            traffic = kfac["bytes"] / adam["bytes"] if count > 1 else 1.0
            lines.append(
                f"{width:5d}  {count:7d}  {1e3 * adam['seconds']:7.1f}  {1e3 * kfac['seconds']:8.1f}  "
                f"{kfac['seconds'] / adam['seconds']:5.2f}  {100 * kfac['updates']:7.0f}  "
                f"{100 * kfac['inversions']:10.0f}  {megabytes[0]:7.2f}  {megabytes[1]:7.2f}  "
                f"{megabytes[2]:8.2f}  {megabytes[3]:7.2f}  {traffic:5.2f}  {verdict(traffic, TRAFFIC)}"
            )
        state = [found[1][str(width)][name]["state"] / 1e6 for name in ("Adam", "K-FAC")]
        own = 4e-6 * found[1][str(width)]["Adam"]["parameters"]
        lines.append(
            f"       state on each worker, be they 1 or 1024: Adam {state[0]:.1f} MB, {state[0] / own:.1f} "
            f"times the parameters; K-FAC {state[1]:.1f} MB, {state[1] / own:.1f} times"
        )
    return "\n".join(lines)


def on_paper(width: int, one: Costs) -> str:
    """What follows for many workers."""
    traffic = max(one.traffic(count) for count in ON_PAPER)
    lines = [
        f"784-{width}-{width}-10 on paper; alone a step takes {1e3 * one.adam:.1f} ms with Adam and "
        f"{1e3 * one.step:.1f} with K-FAC, which has {100 * one.updates:.0f} updates and "
        f"{100 * one.inversions:.0f} inversions in 100 steps, of {1e3 * one.update:.1f} and "
        f"{1e3 * one.inversion:.1f} ms: K-FAC's bytes / Adam's {traffic:.2f}, "
        f"{verdict(traffic, TRAFFIC)}",
        "                                                                       ms of an inversion",
        "device         network     workers  ms Adam  ms K-FAC           growth    each  shared out  "
        "update_every for 10 %",
    ]
    for device, times in DEVICES.items():
        here, largest = one.faster(times), 0.0
        for network in NETWORKS:
            for count in ON_PAPER:
                adam, kfac = here.of_adam(count, network), here.of_kfac(count, network)
                growth = here.growth(count, network)
                largest = max(largest, growth)
                each, shared = (1e3 * here.of_inversion(count, network, way) for way in (False, True))
                lines.append(
                    f"{device:13}  {network.name:10}  {count:7d}  {1e3 * adam:7.2f}  {1e3 * kfac:8.2f}  "
                    f"{growth:6.2f} {verdict(growth, GROWTH):8}  {each:6.2f}  {shared:6.2f} "
                    f"{'pays' if shared < each else '':4}  {here.period(count, network):10d}"
                )
        least = (here.bandwidth_for_sharing(count) for count in (ON_PAPER[0], ON_PAPER[-1]))
        few, many = (f"{b / 1e9:.2f} GB/s" for b in least)
        lines.append(
            f"{device:13}  growth at most {largest:.2f}, {verdict(largest, GROWTH)}; were messages free, "
            f"sharing out would pay from {few} on with {ON_PAPER[0]} workers, {many} with {ON_PAPER[-1]}"
        )
    lines.append(f"growth: of K-FAC's step from 1 worker to R, over that of Adam's; bar {GROWTH}")
    return "\n".join([*lines, ""])


def verdict(number: float, bar: float) -> str:
    """Whether it is within the bar."""
    return "met" if number <= bar else "NOT MET"
