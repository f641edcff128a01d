"""Notes beside a verdict: how natural the step is that the optimizer took, and whose diagonal Adam has."""

from __future__ import annotations

import numpy as np

from kfisher.diagnosis.measurement import Measurement


def notes(now: Measurement) -> list[str]:
    """A sentence on each of what is known."""
    found = []
    if "taken" in now.cosine:
        natural = now.step_norm["exact"]
        times = now.step_norm["taken"] / natural if natural else float("nan")
        found.append(
            f"The step taken has the cosine {now.cosine['taken']:.2f} with the natural-gradient step "
            f"(EF: {now.cosine['empirical']:.2f}) and {times:.3g} times its length. Its gamma, least for the "
            f"natural gradient, is {now.gamma['taken']:.3g} (natural gradient: {now.gamma['exact']:.3g}, EF: "
            f"{now.gamma['empirical']:.3g}, gradient: 1)."
        )
    # Of one parameter there are no ranks.
    if now.second_moment and not np.any(np.isnan(list(now.second_moment.values()))):
        ranks = {kind: f"{value:.2f}" for kind, value in now.second_moment.items()}
        found.append(
            f"The second moments of the optimizer have the rank correlation {ranks['empirical']} with the "
            f"diagonal of EF and {ranks['sampled']} with that of F, each from one label an example."
        )
    return found
