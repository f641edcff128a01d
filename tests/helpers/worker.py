"""One worker of several on this machine: `python -m helpers.worker case folder`, with TF_CONFIG set.

`run` starts them all, from a test.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from kfisher_scripts.common.workers import free_ports


def launch(case, workers, folder, **settings):
    """Starts the workers of a case; they write to `folder`."""
    addresses = [f"localhost:{port}" for port in free_ports(workers)]
    started = []
    for index in range(workers):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        path = os.pathsep.join(p for p in sys.path if p)
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps(task),
            "PYTHONPATH": path,
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        environment |= {k: str(v) for k, v in settings.items()}
        log = open(Path(folder) / f"log_{index}.txt", "w")
        command = [sys.executable, "-m", "helpers.worker", case, str(folder)]
        started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        log.close()
    return started


def ended(processes, folder, timeout):
    """Waits for the workers; kills them and raises, with what they wrote, if they take too long."""
    until = time.monotonic() + timeout
    try:
        return [p.wait(max(0.1, until - time.monotonic())) for p in processes]
    except subprocess.TimeoutExpired:
        raise AssertionError(f"no end after {timeout} s:\n{said(folder)}") from None
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
                p.wait()


def said(folder):
    return "\n".join(f"{p.name}:\n{p.read_text()[-3000:]}" for p in sorted(Path(folder).glob("log_*.txt")))


def run(case, workers, folder, timeout=240, **settings):
    """The weights of every worker after a case."""
    codes = ended(launch(case, workers, folder, **settings), folder, timeout)
    assert codes == [0] * workers, said(folder)
    return [load(Path(folder) / f"weights_{i}.npz") for i in range(workers)]


def load(path):
    with np.load(path) as file:
        return [file[f"arr_{i}"] for i in range(len(file.files))]


def save(models, folder, index):
    from helpers import replicated

    weights = [w for model in models for w in replicated.weights_of(model)]
    np.savez(Path(folder) / f"weights_{index}.npz", *weights)


# --- in a worker ------------------------------------------------------------------------------------


def main(case, folder):
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    alone = "ALONE" in os.environ
    if alone:
        del os.environ["TF_CONFIG"]
    import tensorflow as tf

    from helpers import replicated

    replicated.double()
    strategy = None if alone else tf.distribute.MultiWorkerMirroredStrategy()
    CASES[case](strategy, Path(folder), index)


def fit(strategy, folder, index):
    """Some steps with each kind, validation, and predictions."""
    import keras

    from helpers import replicated

    curvature = os.environ.get("CURVATURE", "kfac")
    damping = (
        {"damping": 0.02} if curvature in ("gram", "dense") else {}
    )  # as OF_ONE_BATCH of mirrored_test.py
    # A sum, not a mean: that Keras divides by their number in float32, which is not exact for three.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    models = []
    for fisher in os.environ.get("FISHER", "sampled").split():
        make = replicated.optimizer(curvature, fisher, **damping)
        models.append(replicated.trained(strategy, make, lambda: replicated.dense(loss)))
    model = models[0]
    model.evaluate(replicated.X, replicated.LABELS, batch_size=24, verbose=0)
    assert model.predict(replicated.X, batch_size=24, verbose=0).shape == (24, 3)
    save(models, folder, index)


def others(strategy, folder, index):
    """Optimizers that are no `NaturalGradient` with options, and options that the other case has not."""
    import keras

    import kfisher
    from helpers import replicated

    o = kfisher.optimizers
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    free = {"class_name": "kfisher>MatrixFree", "config": {"max_iterations": 200, "tolerance": 1e-13}}
    adaptive = {"class_name": "kfisher>LevenbergMarquardt", "config": {"initial": 0.1, "every": 2}}
    made = [
        replicated.optimizer(free, "exact"),
        replicated.optimizer(damping=adaptive, step="quadratic_model"),
        replicated.optimizer("kfac", "exact", gradient_accumulation_steps=2),
        replicated.optimizer("gram", "empirical", damping=0.02),
        lambda: o.SophiaG(0.01, seed=1),
        lambda: o.ImprovedEmpiricalFisher(damping=0.02),
        lambda: o.EmpiricalNaturalGradient(trust_region=0.01),
    ]
    models = [replicated.trained(strategy, make, lambda: replicated.dense(loss)) for make in made]
    assert min(replicated.moved(model) for model in models) > 1e-3
    save(models, folder, index)


def unseeded(strategy, folder, index):
    """Labels drawn with a seed that nobody has given: the first worker's, for all."""
    from helpers import replicated

    model = replicated.trained(strategy, replicated.optimizer(seed=None))
    assert replicated.moved(model) > 1e-3
    save([model], folder, index)


def spoilt(strategy, folder, index):
    """NaN in the part of each worker in turn, with and without loss scaling; 50 steps and more in all."""
    import keras

    from helpers import replicated

    def scaled():
        return keras.optimizers.LossScaleOptimizer(replicated.optimizer()(), initial_scale=8.0)

    models = []
    for make in (replicated.optimizer(), scaled):
        model = replicated.trained(strategy, make, steps=3)
        replicated.skips_what_is_bad_on_any(model, strategy.num_replicas_in_sync)
        replicated.again(model, 48)
        models.append(model)
    save(models, folder, index)


def looks(strategy, folder, index):
    """What measures and describes a model, inside of the strategy that it trains in."""
    import numpy as np

    import kfisher
    from helpers import replicated

    model = replicated.trained(strategy, replicated.optimizer(trust_region=None), steps=3)
    with replicated.scope(strategy):
        F = kfisher.FisherOperator(model, replicated.X, replicated.LABELS, fisher="sampled", seed=1)
        product = F.matvec(np.ones(F.shape[1])).numpy()
        verdict = kfisher.diagnose(model, replicated.X, replicated.LABELS)
        rules = [row.rule for row in kfisher.coverage(model)]
    assert rules == ["dense", "dense"], rules
    found = [v for finding in verdict.findings for v in finding.values.values()]
    numbers = [v for v in found if isinstance(v, float) and np.isfinite(v)]
    assert len(numbers) > 3, found
    np.savez(folder / f"weights_{index}.npz", product, np.array(numbers))


def keras_alone(strategy, folder, index):
    """What Keras cannot without the mends, one at a time, and can with both."""
    import keras

    import kfisher
    from helpers.replicated import X
    from kfisher._keras import distributed

    def train(*mends):
        with strategy.scope():
            model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
            model.compile("adam", "mse")
        for name in mends:
            step = getattr(model, name)
            vars(model)[name] = lambda *a, f=name, s=step, **k: {**distributed.METHODS, **steps}[f](
                model, s, *a, **k
            )
        model.fit(X, X[:, :1], batch_size=24, verbose=0)
        return model

    def logs(model, step, data):
        return distributed.reducible(step(data))

    steps = {"train_step": logs}
    for mends in ([], ["_maybe_symbolic_build"], ["train_step"]):
        try:
            train(*mends)
        except Exception:
            continue
        raise AssertionError(f"Keras needs no more than {mends}")
    trained = train("_maybe_symbolic_build", "train_step")
    try:
        trained.evaluate(X, X[:, :1], batch_size=24, verbose=0)
    except Exception:
        pass
    else:
        raise AssertionError("Keras needs `test_step` mended no more")
    with strategy.scope():
        model = kfisher.attach(keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)]))
        model.compile("adam", "mse")
    model.fit(X, X[:, :1], batch_size=24, validation_data=(X, X[:, :1]), verbose=0)


def long(strategy, folder, index):
    """Trains until it is ended."""
    import keras

    from helpers import replicated

    model = replicated.trained(strategy, replicated.optimizer(), steps=1)
    (folder / f"running_{index}").touch()
    steps = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.01))
    x, y = replicated.X, replicated.LABELS
    model.fit(x, y, batch_size=24, epochs=100_000, callbacks=[steps], verbose=0)


def resumed(strategy, folder, index):
    """Five epochs of two steps with a backup after each; all workers are killed after a step, if the
    environment says so."""
    import keras

    from helpers import replicated

    dies_at = int(os.environ.get("DIES_AT", -1))

    def die(batch, logs):
        if int(model.optimizer.iterations.numpy()) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with strategy.scope():
        keras.utils.set_random_seed(3)
        model, loss = replicated.dense()
        model.compile(optimizer=replicated.optimizer()(), loss=loss)
    backup = keras.callbacks.BackupAndRestore(folder / f"backup_{index}")
    callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=die), backup]
    model.fit(
        replicated.X,
        replicated.LABELS,
        batch_size=12,
        epochs=5,
        shuffle=False,
        callbacks=callbacks,
        verbose=0,
    )
    save([model], folder, index)


CASES = {f.__name__: f for f in (fit, others, unseeded, spoilt, looks, keras_alone, long, resumed)}

if __name__ == "__main__":
    main(*sys.argv[1:])
