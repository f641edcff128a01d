"""K-FAC beside data-parallel Adam on several workers: measured here, and on paper for a thousand."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from kfisher_scripts.benchmarking.scaling import NETWORKS, UPDATE_EVERY, Costs, bytes_of_sum
from kfisher_scripts.common import workers

WIDTHS = (64, 256, 1024)
WORKERS = (1, 2, 3, 4)
ON_PAPER = (8, 64, 256, 1024)
# As fast as this machine, and as an accelerator: everything but the network.
DEVICES = {"as measured": 1.0, "100 x as fast": 100.0}


def run(widths: Sequence[int] = WIDTHS, counts: Sequence[int] = WORKERS) -> None:
    """Prints all tables; one worker and two are what they are made of."""
    found: dict[int, Any] = {}
    for count in tqdm(counts, unit="cluster"):
        command = [sys.executable, "-m", "kfisher_scripts.benchmarking.worker", *map(str, widths)]
        found[count] = json.loads(workers.run(command, count, seconds=3600)[0].splitlines()[-1])
    print(f"\n{table(found, widths)}\n")
    for width in widths:
        print(on_paper(width, costs(found, width)))


def costs(found: dict[int, Any], width: int) -> Costs:
    """What a step takes on one worker, and how often its gradients cross between two."""
    one = found[1][str(width)]
    each = {int(step): seconds for step, seconds in one["K-FAC"]["each"].items()}
    plain = statistics.median(t for step, t in each.items() if step % UPDATE_EVERY)
    updates = [t - plain for step, t in each.items() if step % UPDATE_EVERY == 0]
    inversion = max(updates) - statistics.median(updates)
    made = Costs(
        parameters=one["Adam"]["parameters"],
        factors=one["K-FAC"]["factors"],
        adam=one["Adam"]["seconds"],
        step=plain,
        update=max(statistics.median(updates), 0.0),
        inversion=inversion,
    )
    crossing = found[2][str(width)]["K-FAC"]["bytes"] / bytes_of_sum(2, 1)  # numbers in a step
    made.crossings = round((crossing - made.numbers / UPDATE_EVERY) / made.parameters)
    return made


def table(found: dict[int, Any], widths: Sequence[int]) -> str:
    """Measured seconds and bytes beside the formulas."""
    lines = ["784-w-w-10, 64 examples on each worker, steps 60 to 160; MB received by each worker"]
    lines.append("    w  workers  ms Adam  ms K-FAC  ratio  MB Adam  formula  MB K-FAC  formula  ratio")
    for width in widths:
        one = costs(found, width)
        for count in found:
            adam, kfac = (found[count][str(width)][name] for name in ("Adam", "K-FAC"))
            gradients = bytes_of_sum(count, one.parameters)
            predicted = gradients, one.traffic() * gradients
            traffic = kfac["bytes"] / adam["bytes"] if count > 1 else float("nan")
            times = adam["seconds"], kfac["seconds"]
            received = adam["bytes"], kfac["bytes"]
            megabytes = [b / 1e6 for pair in zip(received, predicted) for b in pair]
            lines.append(
                f"{width:5d}  {count:7d}  {1e3 * times[0]:7.1f}  {1e3 * times[1]:8.1f}  "
                f"{times[1] / times[0]:5.2f}  {megabytes[0]:7.2f}  {megabytes[1]:7.2f}  "
                f"{megabytes[2]:8.2f}  {megabytes[3]:7.2f}  {traffic:5.2f}"
            )
        memory = [found[1][str(width)][name]["state"] / 4 / one.parameters for name in ("Adam", "K-FAC")]
        lines.append(f"       state on each worker / parameters: Adam {memory[0]:.1f}, K-FAC {memory[1]:.1f}")
    return "\n".join(lines)


def on_paper(width: int, one: Costs) -> str:
    """What follows for many workers."""
    lines = [
        f"784-{width}-{width}-10 on paper: K-FAC's bytes / Adam's {one.traffic():.2f} (bar 1.5)",
        "device         network     workers  ms Adam  ms K-FAC  growth  inversions  update_every for 10 %",
    ]
    for device, times in DEVICES.items():
        here = one.faster(times)
        for network in NETWORKS:
            for count in ON_PAPER:
                shared = here.shared_pays(count, network)
                adam, kfac = here.of_adam(count, network), here.of_kfac(count, network, shared)
                lines.append(
                    f"{device:13}  {network.name:10}  {count:7d}  {1e3 * adam:7.2f}  {1e3 * kfac:8.2f}  "
                    f"{here.growth(count, network):6.2f}  {'shared out' if shared else 'on each':10}  "
                    f"{here.period(count, network):6d}"
                )
    return "\n".join([*lines, "growth: K-FAC's step from 1 worker to R, over Adam's; bar 1.2", ""])
