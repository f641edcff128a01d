"""Damaged logs: what cannot be read is left out and told of, the rest is read."""

import json
import re
import shutil
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.event_files import measurement, verdict, write, write_measurements, write_steps, write_verdicts

import kfisher
from kfisher.diagnosis.measurement import Measurement, Verdict
from kfisher.logs import reader
from kfisher.logs.reader import read_log
from kfisher.logs.writer import EventWriter, scalars


def starts(path):
    """Where each record of a file begins."""
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        found.append(at)
        at += 16 + int.from_bytes(data[at : at + 8], "little")
    return found


def flip(path, at, bit=1):
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


# 8 bytes of length, 4 of its checksum, the record, 4 of its checksum
@pytest.mark.parametrize("offset", [0, 5, 9, 12, 40, -1])
def test_a_flipped_bit_costs_one_record(offset, tmp_path):
    write_steps(tmp_path, range(1, 21))
    [path] = (tmp_path / "fisher").iterdir()
    record = starts(path)[8]  # after the version and steps 1 to 7
    flip(path, starts(path)[9] - 1 if offset < 0 else record + offset)
    with pytest.warns(UserWarning, match="after step 7") as warned:
        steps = read_log(tmp_path).steps["step"].tolist()
    assert steps == [s for s in range(1, 21) if s != 8]
    assert len(warned) == 1 and str(path) in str(warned[0].message)


def test_two_damaged_records_and_a_cut_end(tmp_path):
    write_steps(tmp_path, range(1, 21))
    [path] = (tmp_path / "fisher").iterdir()
    first, last = starts(path)[1], starts(path)[20]
    flip(path, first + 3)
    flip(path, last - 20)  # in the body of step 19
    with open(path, "rb+") as file:
        file.truncate(last + 20)
    with pytest.warns(UserWarning, match="2 records that cannot be read, left out: after step 0") as warned:
        steps = read_log(tmp_path).steps["step"].tolist()
    assert steps == list(range(2, 19)) and len(warned) == 1


def test_a_record_that_is_no_event(tmp_path):
    (tmp_path / "fisher").mkdir()
    path = tmp_path / "fisher" / "events.out.tfevents.1.host"
    with tf.io.TFRecordWriter(str(path)) as file:
        file.write(b"\xff\xff\xff")
        event = tf.compat.v1.Event(step=3)
        event.summary.value.add(tag="step/a", simple_value=1.0)
        file.write(event.SerializeToString())
    with pytest.warns(UserWarning, match="at the beginning"):
        assert read_log(tmp_path).steps["a"].tolist() == [1.0]


GOOD = json.loads(measurement(2).to_json())
MALFORMED = {
    "empty": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "null": b"null",
    "a list": b"[1, 2]",
    "deep": b"[" * 100_000,
    "a field is missing": {k: v for k, v in GOOD.items() if k != "damping"},
    "a field too many": {**GOOD, "more": 1},
    "a step that is a word": {**GOOD, "step": "two"},
    "a number too large": {**GOOD, "damping": 10**400},
    "spectra that are a list": {**GOOD, "spectra": []},
    "a spectrum without eigenvalues": {**GOOD, "spectra": {"exact": {"trace": 1.0}}},
    "eigenvalues that are words": {
        **GOOD,
        "spectra": {"exact": {**GOOD["spectra"]["exact"], "eigenvalues": ["one"]}},
    },
    "a layer without a name": {**GOOD, "layers": [{"parameters": 3}]},
    "no step of F": {**GOOD, "step_norm": {"empirical": 1.0}},
    "cosines that are a number": {**GOOD, "cosine": 0.5},
}
MALFORMED = {k: v if isinstance(v, bytes) else json.dumps(v).encode() for k, v in MALFORMED.items()}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_measurement_is_a_value_error_and_left_out(content, tmp_path):
    with pytest.raises(ValueError):
        Measurement.from_json(content)
    rows = [(1, measurement(1).to_json()), (2, content), (3, measurement(3).to_json())]
    path = write(tmp_path / "fisher", [(step, {"fisher/measurement": text}) for step, text in rows])
    with pytest.warns(UserWarning, match="fisher/measurement at step 2") as warned:
        log = read_log(tmp_path)
    assert [m.step for m in log.measurements] == [1, 3] and log.spectra["step"].tolist() == [1, 3]
    assert len(warned) == 1 and path in str(warned[0].message)


@pytest.mark.parametrize("content", [b"{}", b"7", json.dumps({"step": 1, "verdict": None}).encode()])
def test_what_is_no_verdict_is_left_out(content, tmp_path):
    with pytest.raises(ValueError, match="Verdict"):
        Verdict.from_json(content)
    write_verdicts(tmp_path, [verdict(1)])
    write(tmp_path / "fisher", [(1, {"fisher/verdict": content})])  # later, and worse
    with pytest.warns(UserWarning, match="fisher/verdict at step 1"):
        assert read_log(tmp_path).verdicts == [verdict(1)]


def test_values_of_another_type_under_our_tags(tmp_path):
    write_measurements(tmp_path, [measurement(1)])
    odd = {"fisher/measurement": 3.0, "fisher/trace/exact": "a word"}
    write(tmp_path / "fisher", [(2, odd)])
    write(
        tmp_path / "fisher", [(1, {"step/step": 5.0, "step/a": 1.0, "layer/dense": 2.0, "step/b": "a word"})]
    )
    with pytest.warns(UserWarning, match="fisher/measurement at step 2: must be a text"):
        log = read_log(tmp_path)
    assert [m.step for m in log.measurements] == [1] and log.spectra["step"].tolist() == [1]
    assert list(log.steps) == ["step", "a"] and log.steps["step"].tolist() == [1] and log.layers == {}


def test_a_time_that_is_not_a_number_does_not_order_files(tmp_path):
    write(tmp_path / "fisher", [(1, {"step/a": 1.0})], wall_time=1000)
    write(tmp_path / "fisher", [(1, {"step/a": 2.0})], wall_time=2000)
    path = tmp_path / "fisher" / "events.out.tfevents.9.host"
    with tf.io.TFRecordWriter(str(path)) as file:
        event = tf.compat.v1.Event(step=1, wall_time=np.nan)
        event.summary.value.add(tag="step/a", simple_value=3.0)
        file.write(event.SerializeToString())
    assert read_log(tmp_path).steps["a"].tolist() == [2.0]


def test_measurements_and_verdicts_are_read_back_as_they_were():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Measurement.from_json(measurement(5).to_json()) == measurement(5)
        assert Verdict.from_json(verdict(5).to_json()) == verdict(5)


def test_a_log_that_is_deleted_while_it_is_read(tmp_path, monkeypatch):
    write_steps(tmp_path, [1])
    files = reader._event_files(str(tmp_path), "fisher")
    monkeypatch.setattr(reader, "_event_files", lambda log_dir, folder: files if folder == "fisher" else [])
    shutil.rmtree(tmp_path / "fisher")
    with pytest.raises(FileNotFoundError, match="deleted while it was read.*" + re.escape(files[0])):
        read_log(tmp_path)


def test_a_directory_that_was_deleted_between_two_fits_is_made_anew(tmp_path):
    """A notebook: the folder is deleted, the cell run again, and an earlier callback still lives."""
    kept = []
    for _ in range(3):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        kept.append(kfisher.callbacks.StepStatistics(tmp_path / "run"))
        model.fit(np.ones((16, 3)), np.ones((16, 1)), batch_size=4, verbose=0, callbacks=[kept[-1]])
        assert len(kfisher.read_log(tmp_path / "run").steps["step"]) == 4
    model.fit(np.ones((16, 3)), np.ones((16, 1)), batch_size=4, verbose=0, callbacks=[kept[-1]])
    assert len(kfisher.read_log(tmp_path / "run").steps["step"]) == 8


def test_a_directory_that_is_deleted_while_it_is_written_to_is_said_once(tmp_path):
    writer = EventWriter(tmp_path / "run" / "fisher")
    writer.write([(1, 1.0, scalars({"step/a": 1.0}))])
    shutil.rmtree(tmp_path / "run")
    with pytest.warns(UserWarning, match="Nothing more is logged.*was deleted") as warned:
        for step in (2, 3):
            writer.write([(step, 1.0, scalars({"step/a": 1.0}))])
    assert len(warned) == 1 and not (tmp_path / "run").exists()
