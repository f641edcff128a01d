"""Logs as the callbacks write them, made by hand: event files, measurements, verdicts."""

import itertools
import os

import numpy as np
import tensorflow as tf

from kfisher.diagnosis.measurement import Finding, Measurement, Spectrum, Verdict

_TIME = itertools.count(1_700_000_000)


def write(folder, events, wall_time=None):
    """One event file of `[(step, {tag: value})]`: a float is a `simple_value`, all else a tensor.

    Files that are written later are later, whatever the clock says, and their names sort the other way.
    """
    wall_time = next(_TIME) if wall_time is None else wall_time
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"events.out.tfevents.{2_000_000_000 - wall_time}.host")
    with tf.io.TFRecordWriter(path) as file:
        version = tf.compat.v1.Event(wall_time=wall_time, file_version="brain.Event:2")
        file.write(version.SerializeToString())
        for step, values in events:
            event = tf.compat.v1.Event(step=step, wall_time=wall_time)
            for tag, value in values.items():
                if type(value) is float:  # not np.float64
                    event.summary.value.add(tag=tag, simple_value=value)
                else:
                    event.summary.value.add(tag=tag, tensor=tf.make_tensor_proto(value))
            file.write(event.SerializeToString())
    return path


def write_steps(log_dir, steps, names=("update_norm", "gradient_norm"), **kwargs):
    """Number i of step s is s + i / 10."""
    rows = [(s, {f"step/{name}": s + i / 10 for i, name in enumerate(names)}) for s in steps]
    return write(log_dir / "fisher", rows, **kwargs)


def write_measurements(log_dir, measurements, scalars=True):
    rows = [
        (m.step, {"fisher/measurement": m.to_json()} | (m.scalars() if scalars else {})) for m in measurements
    ]
    return write(log_dir / "fisher", rows)


def write_verdicts(log_dir, verdicts):
    return write(log_dir / "fisher", [(v.step, {"fisher/verdict": v.to_json()}) for v in verdicts])


def measurement(step, progress=0.0, examples=64, parameters=12_000, seed=0):
    """A made-up one: EF is short and well aligned at `progress` 0, long and opposite at 1."""
    rng = np.random.default_rng([seed, step])
    index = np.arange(1, 1 + min(9 * examples, parameters))
    exact = 0.8 * index**-1.3 * np.exp(-index / 150)
    empirical = (0.05 + 2.5 * (1 - progress) ** 3) * index[:examples] ** -1.1
    noise = 0.25 * exact / np.sqrt(1 + index / 20)
    sampled = np.sort(exact * np.exp(0.1 * rng.normal(size=len(exact))))[::-1]
    damping = 1e-3

    def spectrum(values, error=None):
        return Spectrum(
            eigenvalues=[float(v) for v in values],
            complete=True,
            trace=float(values.sum()),
            effective_dimension=float((values / (values + damping)).sum()),
            condition=float(values[0] / values[-1]),
            error={} if error is None else {"trace": 0.1, "effective_dimension": 2.0, "eigenvalues": error},
        )

    spread = np.linspace(1, -1, examples)
    sizes = [k for k in (1, 2, 5, 10, 20) if k <= min(examples, parameters)]
    gradient_norm = float(2 * np.exp(-4 * progress))
    return Measurement(
        step=step,
        examples=examples,
        parameters=parameters,
        damping=damping,
        gradient_norm=gradient_norm,
        spectra={
            "exact": spectrum(exact),
            "sampled": spectrum(sampled, [float(v) for v in noise]),
            "empirical": spectrum(empirical),
        },
        overlap_sizes=sizes,
        overlap={
            "sampled": [float(0.9 - 0.1 / k) for k in sizes],
            "empirical": [float((0.7 - 0.5 * progress) / (1 + 0.05 * k)) for k in sizes],
        },
        ratio_eigenvalues=[float(v) for v in 10 ** (spread * (0.5 + progress))],
        trace_ratio=float(examples * (0.5 + progress)),
        cosine={"sampled": 0.93, "empirical": float(0.8 - 1.1 * progress)},
        step_norm={
            "exact": gradient_norm,
            "sampled": 1.1 * gradient_norm,
            "empirical": float(0.2 * np.exp(2 * progress)),
        },
        gamma={"exact": 0.3, "sampled": 0.35, "empirical": float(0.5 + 3 * progress)},
        curved={
            kind: {
                "curvature": [float(v) for v in exact[exact > damping]],
                "ratio": [float(v) for v in np.exp(width * np.cos(index[exact > damping]))],
            }
            for kind, width in (("sampled", 0.2), ("empirical", 0.5 + progress))
        },
        layers=[
            {"name": n, "parameters": p, "exact": t, "sampled": 1.1 * t, "empirical": t * (1.8 - progress)}
            for n, p, t in [("dense", 10_000, 1.2), ("block/attention/query", 1_500, 0.05), ("head", 500, 3)]
        ],
        error={"cosine": 0.02, "step_norm": 0.1 * gradient_norm, "gamma": 0.03},
        dimension=examples,
        complete=True,
        seconds=0.2,
        second_moment={"sampled": 0.6, "empirical": 0.8},
    )


def verdict(step, name="inverted"):
    return Verdict(
        step=step,
        verdict=name,
        sentence="The empirical Fisher cannot stand in for the Fisher here: its steps grow while the "
        "gradient shrinks.",
        findings=[
            Finding("direction", "warning", "cosine 0.31 between the EF and the natural-gradient step.", {}),
            Finding("inversion", "bad", "step length rose 7-fold as the gradient norm fell 50-fold.", {}),
        ],
    )
