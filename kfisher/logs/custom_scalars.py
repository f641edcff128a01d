"""Charts that TensorBoard's own "Custom Scalars" tab opens ready-made."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2, summary

from kfisher.logs import schema

# Titles, and the names of the tags that share the chart: regular expressions. The tab draws a line for each
# tag of each run that one matches from its beginning on.
_STEPS = {
    "Training loss": (schema.LOSS,),
    "Update norm and gradient norm": (schema.UPDATE_NORM, schema.GRADIENT_NORM),
    "Update norm ÷ gradient norm": (schema.UPDATE_TO_GRADIENT,),
    "Cosine of the update and minus the gradient": (schema.COSINE,),
    "Weight norm, and distance from the start": (schema.WEIGHT_NORM, schema.DISTANCE),
    "Learning rate and damping": (schema.LEARNING_RATE, schema.RATE_IN_USE, schema.DAMPING),
    "Momentum": (schema.MOMENTUM_IN_USE,),
    "KL divergence of the step": (schema.KL,),
    "Trust region": (schema.RADIUS,),
    "Skipped steps": (schema.SKIPPED_STEPS,),
    "Rejected steps": (schema.REJECTED_STEPS,),
}
_FISHER = {
    "Trace of F, sampled F and EF": (f"{schema.TRACE}/.*",),
    "Effective dimension": (f"{schema.EFFECTIVE_DIMENSION}/.*",),
    "Largest eigenvalue": (f"{schema.LARGEST_EIGENVALUE}/.*",),
    "Condition": (f"{schema.CONDITION}/.*",),
    "Eigenvalues of (F + λI)⁻¹(EF + λI): all 1 if EF = F": (f"{schema.RATIO_EIGENVALUE}/.*",),
    "tr((F + λI)⁻¹EF)": (schema.TRACE_RATIO,),
    "Cosine with the natural-gradient step": (f"{schema.COSINE}/.*",),
    "Step lengths, and the gradient norm": (f"{schema.STEP_NORM}/.*", schema.GRADIENT_NORM),
    "EF step length ÷ natural-gradient step length": (schema.LENGTH_RATIO,),
    "γ relative to the gradient's (lower is better)": (f"{schema.GAMMA}/.*",),
    "Adam's second moments: rank correlation with diag F and diag EF": (f"{schema.SECOND_MOMENT}/.*",),
    "Overlap of the k leading eigenvectors with those of F": (f"{schema.OVERLAP}.*",),
}


def custom_scalars_layout(
    step_names: Iterable[str] | None = None, fisher: bool = True
) -> tf.compat.v1.Summary:
    """The layout of the "Custom Scalars" tab: the categories "Steps" and "Fisher against EF".

    It belongs into one event of any run of the log directory, at any step; TensorBoard merges equal charts
    of several runs. A layout has titles and tags, and no place for colours or axes: there lines have the
    colours of their runs, and each chart a button for a logarithmic axis. One colour for each kind, and
    logarithmic axes where they belong, are in the tab "Fisher".

    Args:
        step_names: What is logged of each step, such as "update_norm": charts that would stay empty are left
            out. Defaults to all.
        fisher: Bool, whether to add "Fisher against EF". Defaults to `True`.

    Returns:
        A `Summary` proto with the tag "custom_scalars__config__".

    Example:

    >>> event = tf.compat.v1.Event(step=0, summary=custom_scalars_layout())
    >>> tf.io.TFRecordWriter(path).write(event.SerializeToString())
    """
    steps = _STEPS
    if step_names is not None:
        logged = set(step_names)
        steps = {title: names for title, names in _STEPS.items() if logged & set(names)}
    categories = [_category("Steps", schema.STEP, steps)]
    if fisher:
        categories.append(_category("Fisher against EF", schema.FISHER, _FISHER))
    return summary.pb(layout_pb2.Layout(category=[c for c in categories if c.chart]))


def _category(title: str, prefix: str, charts: dict[str, tuple[str, ...]]) -> layout_pb2.Category:
    return layout_pb2.Category(
        title=title,
        chart=[
            layout_pb2.Chart(
                title=chart, multiline=layout_pb2.MultilineChartContent(tag=[f"{prefix}({'|'.join(names)})$"])
            )
            for chart, names in charts.items()
        ],
    )
