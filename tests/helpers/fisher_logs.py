"""Logs as the callbacks write them, with made-up but plausible numbers: what the tests of the tab show."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from kfisher.diagnosis.measurement import Finding, Measurement, Spectrum, Verdict

LAYERS = ("conv2d", "conv2d_1", "dense", "dense_1", "a_layer_with_quite_a_long_name")


def write_run(
    log_dir,
    seed=0,
    steps=10_000,
    measurements=100,
    examples=256,
    parameters=1345,
    layer_statistics=True,
    misspecified=True,
    diverges_at=None,
):
    """A run of `steps` steps, measured at logarithmically spaced ones.

    Args:
        log_dir: Where the sub-runs `steps`, `spectra` and `verdict` go.
        measurements: How many; 0 for a run with `StepStatistics` only.
        misspecified: Whether EF goes wrong towards the end.
        diverges_at: A step from which on the loss is infinite, as it is logged where it is not a number.
    """
    generator = np.random.default_rng(seed)
    _write_steps(os.path.join(log_dir, "fisher"), steps, generator, layer_statistics, diverges_at)
    if not measurements:
        return []
    measured = np.unique(np.rint(np.geomspace(1, steps, 3 * measurements)).astype(int))
    measured = measured[np.rint(np.linspace(0, len(measured) - 1, measurements)).astype(int)]
    made = [
        make_measurement(int(step), step / steps, generator, examples, parameters, misspecified)
        for step in measured
    ]
    write_texts(os.path.join(log_dir, "fisher"), "fisher/measurement", [(m.step, m.to_json()) for m in made])
    verdicts = [make_verdict(m) for m in made[::3]]
    write_texts(os.path.join(log_dir, "fisher"), "fisher/verdict", [(v.step, v.to_json()) for v in verdicts])
    return made


def make_measurement(step, progress, generator, examples=256, parameters=1345, misspecified=True):
    """One in which F slowly shrinks and EF departs from it."""
    drift = progress**0.5 if misspecified else 0.0
    damping = 1e-3
    rank = np.arange(1, parameters + 1)
    exact = 3.0 * (1 + step) ** -0.15 * rank**-1.1 * np.exp(-rank / (parameters / 8))
    few = np.arange(1, examples + 1)
    sampled = 3.2 * (1 + step) ** -0.15 * few**-1.05 * np.exp(-few / (examples / 5))
    sampled = np.sort(sampled * np.exp(0.05 * generator.standard_normal(examples)))[::-1]
    empirical = 3.0 * (1 + step) ** (-0.15 - 0.35 * drift) * few ** (-1.1 - 0.6 * drift)
    empirical = np.sort(empirical * np.exp(-few / (examples / 6)))[::-1]
    spectra = {}
    for kind, values in (("exact", exact), ("sampled", sampled), ("empirical", empirical)):
        error = {}
        if kind == "sampled":
            error = {
                "trace": 0.04 * values.sum(),
                "effective_dimension": 2.0,
                "eigenvalues": (values * (0.08 + 0.25 * few / examples)).tolist(),
            }
        spectra[kind] = Spectrum(
            values.tolist(),
            True,
            float(values.sum()),
            float((values / (values + damping)).sum()),
            float(values[0] / values[-1]),
            error,
        )
    sizes = [1, 2, 4, 8, 16, 32]
    wiggle = 0.03 * generator.standard_normal(3)
    joint = np.linspace(-1, 1, examples)
    gradient_norm = 4.0 * (1 + step) ** -0.5
    exact_norm = 0.9 * (1 + step) ** -0.35
    layers = [
        {
            "name": name,
            "parameters": 40 + 250 * i,
            "exact": float(exact.sum() * 0.5**i),
            "sampled": float(sampled.sum() * 0.5**i),
            "empirical": float(empirical.sum() * 0.7**i),
        }
        for i, name in enumerate(LAYERS)
    ]
    return Measurement(
        step=step,
        examples=examples,
        parameters=parameters,
        damping=damping,
        gradient_norm=gradient_norm,
        spectra=spectra,
        overlap_sizes=sizes,
        overlap={
            "sampled": [0.97 - 0.03 * i + wiggle[0] / 3 for i in range(6)],
            "empirical": [(0.9 - 0.08 * i) * (1 - 0.7 * drift) for i in range(6)],
        },
        ratio_eigenvalues=np.exp(-joint * (0.4 + 2.0 * drift) + 0.3 * drift).tolist(),
        trace_ratio=float(120 * (1 - 0.5 * drift)),
        cosine={"sampled": 0.95 + wiggle[1] / 3, "empirical": float(0.85 - 1.1 * drift + wiggle[2])},
        step_norm={
            "exact": exact_norm,
            "sampled": exact_norm * (1.05 + wiggle[0]),
            "empirical": 1.2 * exact_norm * (1 + step) ** (0.6 * drift),
        },
        gamma={
            "exact": 0.12 + 0.1 * progress,
            "sampled": 0.15 + 0.1 * progress + abs(wiggle[1]) / 3,
            "empirical": 0.25 + 0.9 * drift,
        },
        layers=layers,
        curved={
            kind: {
                "curvature": exact[:60].tolist(),
                "ratio": np.exp(width * np.cos(rank[:60]) - down).tolist(),
            }
            for kind, width, down in (("sampled", 0.25, 0.0), ("empirical", 0.3 + drift, 2 * drift))
        },
        error={"cosine": 0.02, "step_norm": 0.04 * exact_norm, "gamma": 0.02},
        dimension=examples * 2,
        complete=True,
        seconds=0.3,
    )


def make_verdict(measurement):
    """As bad as the cosine of the measurement."""
    cosine = measurement.cosine["empirical"]
    level = "fine" if cosine > 0.7 else "warning" if cosine > 0.0 else "bad"
    verdict = {"fine": "fine", "warning": "distorted", "bad": "opposite"}[level]
    sentence = {
        "fine": "The empirical Fisher can stand in for the Fisher here: direction and length agree.",
        "warning": "The empirical Fisher distorts the direction: its step is {:.0f}° off the natural one.",
        "bad": "The empirical Fisher points the opposite way: its step is {:.0f}° off the natural gradient.",
    }[level].format(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    ratio = measurement.length_ratio
    return Verdict(
        measurement.step,
        verdict,
        sentence,
        [
            Finding(
                "direction",
                level,
                f"The cosine between the two steps is {cosine:.2f}; sampled labels give "
                f"{measurement.cosine['sampled']:.2f}.",
                {"cosine": cosine, "sampled": measurement.cosine["sampled"], "threshold": 0.7},
            ),
            Finding(
                "length",
                "fine" if ratio < 2 else "warning",
                f"The EF step is {ratio:.3g} times as long.",
                {"length_ratio": ratio, "threshold": 2.0},
            ),
            Finding("inversion", "unknown", "Not judged: fewer than five measurements so far.", {}),
        ],
    )


def write_texts(log_dir, tag, texts):
    """Scalar strings `(step, text)` that belong to the plugin "fisher"."""
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="fisher"), data_class=2
    )
    writer = tf.summary.create_file_writer(os.fspath(log_dir))
    with writer.as_default():
        for step, text in texts:
            tf.summary.write(tag, text, step=step, metadata=metadata)
    writer.close()


def _write_steps(log_dir, steps, generator, layer_statistics, diverges_at=None):
    step = np.arange(1, steps + 1)
    noise = np.exp(0.25 * generator.standard_normal((4, steps)))
    gradient = 4.0 * (1 + step) ** -0.5 * noise[0]
    update = 0.05 * (1 + step) ** -0.3 * noise[1]
    columns = {
        "step/loss": 2.3 * (1 + step) ** -0.25 * noise[0] ** 0.5,
        "step/update_norm": update,
        "step/gradient_norm": gradient,
        "step/update_to_gradient": update / gradient,
        "step/cosine": np.clip(0.6 - 0.3 * step / steps + 0.05 * generator.standard_normal(steps), -1, 1),
        "step/weight_norm": 6 + np.log1p(step) * 0.4,
        "step/distance": np.sqrt(np.cumsum(update**2)),
        "step/learning_rate": 0.1 * 0.5 ** (step // (steps / 4)),
        "step/damping": 1e-2 * 0.9995**step + 1e-5,
        "step/skipped_steps": np.cumsum(generator.random(steps) < 3e-4),
        "step/kl": 1e-3 * noise[2],
    }
    if diverges_at is not None:
        columns["step/loss"] = np.where(step < diverges_at, columns["step/loss"], np.inf)
    if layer_statistics:
        for i, name in enumerate(LAYERS):
            for statistic, values in (("update_norm", update), ("gradient_norm", gradient)):
                columns[f"layer/{name}/{statistic}"] = values * 0.6**i * noise[3] ** (i / 3)
            columns[f"layer/{name}/weight_norm"] = (6 + np.log1p(step) * 0.4) / (1 + i)
    os.makedirs(log_dir, exist_ok=True)
    with tf.io.TFRecordWriter(os.path.join(log_dir, "events.out.tfevents.1700000000.test")) as file:
        file.write(tf.compat.v1.Event(wall_time=1.7e9, file_version="brain.Event:2").SerializeToString())
        rows = np.stack(list(columns.values()), axis=1).tolist()
        for number, row in zip(step.tolist(), rows):
            event = tf.compat.v1.Event(step=number, wall_time=1.7e9 + number)
            for tag, value in zip(columns, row):
                event.summary.value.add(tag=tag, simple_value=value)
            file.write(event.SerializeToString())
