"""read_log: every number comes back, from every file, as a table."""

import re

import keras
import numpy as np
import pandas
import pytest
from helpers.event_files import measurement, verdict, write, write_measurements, write_steps, write_verdicts

from kfisher.callbacks import StepStatistics
from kfisher.logs.reader import read_log


def test_every_number_of_every_step_comes_back(tmp_path):
    write_steps(tmp_path, [1, 2, 3], ["update_norm", "gradient_norm", "kl"])
    table = read_log(tmp_path).steps
    assert list(table) == ["step", "update_norm", "gradient_norm", "kl"]
    assert table["step"].tolist() == [1, 2, 3]
    # float32 in the file
    assert np.allclose(table["kl"], [1.2, 2.2, 3.2], rtol=1e-7)
    assert pandas.DataFrame(table).shape == (3, 4)


def test_a_notebook_shows_the_verdict_and_where_each_number_began_and_ended(tmp_path):
    write_steps(tmp_path, [1, 2, 3], ["update_norm", "kl"])
    write_verdicts(tmp_path, [verdict(2)])
    log = read_log(tmp_path)
    shown = log._repr_html_()
    assert log.verdicts[-1].sentence in shown
    rows = re.findall(r"<tr>(.*?)</tr>", shown)
    cells = [re.findall(r">([^<>]*)</t[dh]>", row) for row in rows]
    assert cells[0] == ["of each", "quantity", "values", "first", "last"]
    assert ["step", "kl", "3", "1.1", "3.1"] in cells and len(cells) == 3


def test_scalars_may_be_tensors_and_missing_ones_are_nan(tmp_path):
    write(tmp_path / "steps", [(1, {"step/a": np.float64(0.1)}), (2, {"step/a": np.int64(7), "step/b": 3.0})])
    table = read_log(str(tmp_path)).steps
    assert table["a"].tolist() == [0.1, 7.0]
    assert np.isnan(table["b"][0]) and table["b"][1] == 3.0


def test_what_is_no_single_number_is_passed_over(tmp_path):
    histogram, image = np.zeros((30, 3)), [b"10", b"10", b"png"]
    write(tmp_path / "steps", [(1, {"step/a": 1.0, "step/histogram": histogram, "step/image": image})])
    assert list(read_log(tmp_path).steps) == ["step", "a"]


def test_layers_have_tables_of_their_own_also_where_names_have_slashes(tmp_path):
    values = {"layer/dense/update_norm": 1.0, "layer/block/query/update_norm": 2.0, "step/update_norm": 3.0}
    write(tmp_path / "steps", [(5, values), (6, {"layer/dense/gradient_norm": 4.0})])
    layers = read_log(tmp_path).layers
    assert list(layers) == ["dense", "block/query"]
    assert layers["block/query"]["step"].tolist() == [5]
    assert layers["block/query"]["update_norm"].tolist() == [2.0]
    assert layers["dense"]["step"].tolist() == [5, 6]
    assert layers["dense"]["gradient_norm"].tolist()[1:] == [4.0]


def test_files_of_several_fits_are_merged_and_the_later_one_wins(tmp_path):
    write_steps(tmp_path, [4, 5], ["a"])
    write_steps(tmp_path, [1, 2], ["a"])
    write(tmp_path / "steps", [(2, {"step/a": 20.0}), (4, {"step/b": 40.0})])  # begins again after step 1
    table = read_log(tmp_path).steps
    assert table["step"].tolist() == [1, 2, 4, 5]
    assert table["a"].tolist() == [1.0, 20.0, 4.0, 5.0]
    assert table["b"].tolist()[2] == 40.0


@pytest.mark.parametrize("cut", [1, 4, 20, 60])
def test_a_file_that_is_still_being_written_is_read_up_to_there(cut, tmp_path):
    path = write_steps(tmp_path, range(1, 51))
    with open(path, "rb+") as file:
        file.truncate(file.seek(0, 2) - cut)
    steps = read_log(tmp_path).steps["step"].tolist()
    # a record of two scalars takes 93 bytes: only the last one is damaged
    assert steps == list(range(1, 50))


def test_measurements_and_verdicts_come_back_with_all_they_hold(tmp_path):
    measurements = [measurement(step) for step in (10, 20)]
    write_measurements(tmp_path, measurements[::-1])
    write_verdicts(tmp_path, [verdict(20), verdict(10, "fine")])
    log = read_log(tmp_path)
    assert log.measurements == measurements
    assert log.verdicts == [verdict(10, "fine"), verdict(20)]


@pytest.mark.parametrize("scalars", [True, False])
def test_the_table_of_spectra_holds_the_scalars_of_each_measurement(scalars, tmp_path):
    measurements = [measurement(step, step / 20) for step in (10, 20)]
    write_measurements(tmp_path, measurements, scalars=scalars)
    table = read_log(tmp_path).spectra
    assert set(table) == {"step"} | {tag.removeprefix("fisher/") for tag in measurements[0].scalars()}
    assert table["step"].tolist() == [10, 20]
    for tag in measurements[0].scalars():
        # exactly: the measurement is float64, where the scalars beside it are float32
        assert table[tag.removeprefix("fisher/")].tolist() == [m.scalars()[tag] for m in measurements]


def test_infinite_numbers_come_back_as_nan(tmp_path):
    odd = measurement(1)
    odd.cosine["empirical"] = odd.spectra["exact"].condition = np.inf
    write_measurements(tmp_path, [odd], scalars=False)
    table = read_log(tmp_path).spectra
    assert np.isnan(table["cosine/empirical"]) and np.isnan(table["condition/exact"])
    assert table["cosine/sampled"] == 0.93


def test_what_keras_and_step_statistics_write_themselves(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 3)), np.ones((8, 2))
    callbacks = [keras.callbacks.TensorBoard(tmp_path, update_freq="batch"), StepStatistics(tmp_path)]
    history = model.fit(
        x, y, batch_size=4, epochs=3, validation_data=(x, y), verbose=0, callbacks=callbacks
    ).history
    log = read_log(tmp_path)
    assert log.steps["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert log.train["epoch"].tolist() == log.validation["epoch"].tolist() == [0, 1, 2]
    # float32 in the file
    assert np.allclose(log.train["loss"], history["loss"], rtol=1e-6)
    assert np.allclose(log.validation["loss"], history["val_loss"], rtol=1e-6)
    assert np.all(np.isfinite(log.steps["update_norm"]))


def test_parts_that_were_not_logged_are_empty_tables(tmp_path):
    write_verdicts(tmp_path, [verdict(3)])
    log = read_log(tmp_path)
    assert [len(t) for t in (log.steps["step"], log.spectra["step"], log.train["epoch"])] == [0, 0, 0]
    assert log.layers == {} and log.measurements == []
    assert "0 steps" in repr(log) and "1 verdicts" in repr(log)


def test_no_log_says_where_there_are_some(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such directory.*Received: log_dir='.*nowhere'"):
        read_log(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="steps, spectra, verdict.*Pass the `log_dir` of"):
        read_log(tmp_path)
    write_steps(tmp_path / "adam", [1])
    write_steps(tmp_path / "natural", [1])
    with pytest.raises(FileNotFoundError, match="holds the runs adam, natural: pass one of them"):
        read_log(tmp_path)


def test_ten_thousand_steps_all_come_back(tmp_path):
    write_steps(tmp_path, range(10_000), [f"n{i}" for i in range(10)])
    table = read_log(tmp_path).steps
    assert np.array_equal(table["step"], np.arange(10_000))
    # steps near 10 000 in float32
    assert np.allclose(table["n9"], np.arange(10_000) + 0.9, atol=1e-3)


@pytest.mark.parametrize("log_dir", [5, None, "", b"runs"])
def test_a_log_is_read_from_a_directory(log_dir):
    with pytest.raises(ValueError, match="`log_dir` must be a directory.*Received: log_dir="):
        read_log(log_dir)
