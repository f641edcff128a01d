"""The tab in a real browser against a real TensorBoard server on loopback.

Screenshots of what the tests saw are kept in `runs/screenshots` (or `KFISHER_ARTIFACTS`).
"""

import csv
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from helpers.fisher_logs import write_run

pytestmark = [pytest.mark.slow, pytest.mark.by_hand]

LONG_NAMES = [
    f"experiment-2026-11-28/a-network-with-a-long-name/rate-{10**-i:.0e}-seed-{j}"
    for i in range(4)
    for j in range(5)
]
STEPS = 10_000
MEASUREMENTS = 100
LIMIT = 240.0  # seconds that anything may take before a test fails; nothing is measured by it
ARTIFACTS = pathlib.Path(os.environ.get("KFISHER_ARTIFACTS", "runs/screenshots")).resolve()
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


class Server:
    """`tensorboard --logdir ...` in a process of its own, stopped at the end of the module."""

    def __init__(self, log_dir, loader, output):
        self.output = output
        command = [
            sys.executable,
            "-m",
            "tensorboard.main",
            "--logdir",
            str(log_dir),
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--load_fast",
            loader,
            "--reload_interval",
            "1",
        ]
        with open(self.output, "w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=log_dir)

    @property
    def url(self):
        deadline = time.monotonic() + LIMIT
        while not (found := re.search(r"at (http://127\.0\.0\.1:\d+/)", self.output.read_text())):
            assert self.process.poll() is None and time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.1)
        return found.group(1)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tab")
    (folder / "empty").mkdir()
    logs = folder / "logs"
    write_run(logs / "net" / "adam", seed=0, steps=STEPS, measurements=MEASUREMENTS)
    write_run(
        logs / "net" / "natural",
        seed=1,
        steps=STEPS // 2,
        measurements=40,
        misspecified=False,
        layer_statistics=False,
    )
    for i, name in enumerate(LONG_NAMES):
        options = {"measurements": 3, "examples": 8, "parameters": 12, "layer_statistics": False}
        write_run(folder / "many" / name, seed=i, steps=60, **options)
    options = {"measurements": 1, "layer_statistics": False, "diverges_at": 30}
    write_run(folder / "many" / "diverged", steps=400, **options)
    started = {
        "fast": Server(logs, "true", folder / "fast.txt"),
        "old": Server(folder / "empty", "false", folder / "old.txt"),
        "many": Server(folder / "many", "true", folder / "many.txt"),
    }
    started["fast"].log_dir, started["old"].log_dir = logs, folder / "empty"
    yield started
    for server in started.values():
        server.process.terminate()
    for server in started.values():
        server.process.wait(20)


@pytest.fixture(scope="module")
def driver():
    if not (CHROMIUM and DRIVER):
        reason = "chromium and chromedriver are not on PATH (Debian: apt-get install chromium-driver)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-component-update",
        "--disable-background-networking",
        "--disable-sync",
        "--disable-default-apps",
        "--no-first-run",
        "--disable-gpu",
        "--window-size=1280,800",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


_FRAME = "[...document.querySelectorAll('iframe')].find((frame) => frame.offsetParent)"


class Tab:
    """What a person does with the tab, and sees."""

    def __init__(self, driver):
        self.driver = driver
        self.tolerated = ()

    def open(self, server, width=1280, height=800, dark=False):
        self.driver.switch_to.default_content()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        if self.driver.current_url.startswith(server.url):
            self.driver.execute_script(f"{_FRAME}.contentWindow.location.reload()")
        else:
            self.driver.get(f"{server.url}#fisher")
            self.until(f"return {_FRAME}")
        self.driver.execute_script("document.body.classList.toggle('dark-mode', arguments[0])", dark)
        self.driver.switch_to.frame(self.driver.execute_script(f"return {_FRAME}"))
        self.until("return window.loadedBy !== arguments[0] && document.querySelector('main')", id(self))
        self.driver.execute_script("window.loadedBy = arguments[0]", id(self))

    def open_runs(self, server, **arguments):
        self.open(server, **arguments)
        self.until("return document.querySelectorAll('#runs input:checked').length == 2")
        # Of both runs, in full: a loader hands over what it has read so far.
        self.until(f"return Number(document.querySelector('#step').max) > {MEASUREMENTS}")

    def until(self, script, *arguments):
        deadline = time.monotonic() + LIMIT
        while not (found := self.driver.execute_script(script, *arguments)):
            assert time.monotonic() < deadline, f"waited in vain for: {script}"
            time.sleep(0.05)
        return found

    def chart(self, panel, run="net/adam"):
        """Scrolls there, waits until it is drawn; its traces `{name: (x, y)}`, without error bands."""
        script = """
            const cell = document.querySelector(`[data-chart="${arguments[0]}"][data-run="${arguments[1]}"]`);
            if (!cell) return null;
            cell.scrollIntoView({block: 'center'});
            const plot = cell.querySelector('.plot');
            if (!plot.data || !plot.querySelector('.main-svg')) return null;
            const points = plot.data.filter((trace) => trace.hoverinfo !== 'skip');
            return points.map((trace) => [trace.name, [...trace.x], [...trace.y]]);"""
        return {name: (x, y) for name, x, y in self.until(script, panel, run)}

    def move(self, index):
        """The slider, by what a drag of it does."""
        script = """
            const slider = document.querySelector('#step');
            slider.value = arguments[0];
            slider.dispatchEvent(new Event('input'));"""
        self.driver.execute_script(script, index)

    def text(self, selector):
        return self.driver.execute_script("return document.querySelector(arguments[0])?.innerText", selector)

    def click(self, selector):
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)

    def screenshot(self, name, panel="verdict"):
        script = """
            document.querySelector(`[data-panel="${arguments[0]}"]`)?.scrollIntoView({block: 'start'});
            const visible = [...document.querySelectorAll('.plot')].filter((plot) => {
              const {top, bottom} = plot.getBoundingClientRect();
              return bottom > 80 && top < innerHeight - 20 && plot.clientWidth && !plot.hidden;
            });
            return visible.every((plot) => plot.querySelector('.main-svg'));"""
        self.until(script, panel)
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(ARTIFACTS / f"{name}.png"))

    def complaints(self):
        messages = [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [m["message"] for m in messages if not any(text in m["message"] for text in self.tolerated)]

    def hosts(self):
        """Where requests went."""
        found = set()
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                found.add(urlsplit(event["params"]["request"]["url"]))
        return {url.hostname for url in found if url.scheme not in ("data", "blob", "about")}


@pytest.fixture
def tab(driver, servers):
    made = Tab(driver)
    yield made
    assert made.complaints() == []
    assert made.hosts() == {"127.0.0.1"}  # nothing leaves the machine


def test_spectra_of_two_runs_side_by_side(tab, servers):
    tab.open_runs(servers["fast"])
    _check_two_runs(tab)
    tab.screenshot("two_runs", "spectrum")


def _check_two_runs(tab):
    for run in ("net/adam", "net/natural"):
        spectra = tab.chart("spectrum", run)
        assert set(spectra) == {"F, exact", "F, sampled labels", "EF, empirical"}
        rank, eigenvalues = spectra["F, exact"]
        assert rank[0] == 1 and rank[-1] == 1345 and len(rank) == len(eigenvalues) <= 400
        assert (np.diff(eigenvalues) <= 0).all() and eigenvalues[0] > 0
    tops = tab.driver.execute_script(
        "const charts = [...document.querySelectorAll('[data-chart=spectrum]')];"
        "return charts.map((chart) => chart.getBoundingClientRect().top)"
    )
    assert len(tops) == 2 and tops[0] == tops[1]
    positions = tab.driver.execute_script("return Number(document.querySelector('#step').max) + 1")
    assert tab.text(".position") == f"step 10,000 · measurement {positions} of {positions}"


def test_the_slider_moves_the_curves(tab, servers):
    tab.open_runs(servers["fast"])
    tab.click('#runs input[data-run="net/natural"]')
    tab.until(f"return document.querySelector('#step').max == {MEASUREMENTS - 1}")
    last = tab.chart("spectrum")["EF, empirical"]
    for index in range(0, MEASUREMENTS, 5):  # twenty times
        tab.move(index)
        tab.until(
            "return document.querySelector('.position').innerText.includes(arguments[0])",
            f"measurement {index + 1} of 100",
        )
    tab.move(0)
    tab.until("return document.querySelector('[data-chart=spectrum] .at').innerText == 'step 1'")
    first = tab.chart("spectrum")["EF, empirical"]
    assert first[0] == last[0] and first[1] != last[1]
    assert tab.text('[data-panel="verdict"] .sentence').startswith("The empirical Fisher can stand in")
    assert tab.driver.execute_script("return document.querySelector('.verdict').dataset.level") == "fine"
    # A reload leaves the slider where it is.
    tab.click("#reload")
    tab.until("return !document.querySelector('#reload').classList.contains('busy')")
    assert "measurement 1 of 100" in tab.text(".position")
    tab.click("#play")
    tab.until("return Number(document.querySelector('#step').value) >= 3")
    tab.click("#play")


def test_every_panel_shows_its_numbers(tab, servers):
    tab.open_runs(servers["fast"])
    for panel, names in {
        "ratio": {"EF", "sampled labels"},
        "gamma": {"F, exact", "F, sampled labels", "EF, empirical", "Gradient"},
        "cosine": {"F, sampled labels", "EF, empirical"},
        "length": {"F, exact", "F, sampled labels", "EF, empirical", "Gradient"},
        "overlap": {"F, sampled labels", "EF, empirical", "unrelated (k / P)"},
        "size": {"F, exact", "F, sampled labels", "EF, empirical"},
        "layers": {"F, exact", "F, sampled labels", "EF, empirical"},
        "layer-statistics": {"conv2d", "conv2d_1", "dense", "dense_1", "a_layer…te_a_long_name"},
    }.items():
        chart = tab.chart(panel)
        assert set(chart) == names, panel
        assert all(len(x) == len(y) > 0 for x, y in chart.values())
    assert len(tab.chart("gamma")["EF, empirical"][0]) == MEASUREMENTS
    for statistic in (
        "update_norm",
        "gradient_norm",
        "update_to_gradient",
        "cosine",
        "distance",
        "weight_norm",
        "learning_rate",
        "damping",
        "kl",
        "skipped_steps",
    ):
        lines = tab.chart(f"statistic-{statistic}", "")
        assert set(lines) == {"net/adam", "net/natural"}
        assert all(500 < len(x) <= 1000 for x, _ in lines.values())
    assert "1000 of 10,000" in tab.text('[data-panel="statistics"] > .note')
    script = "return [...document.querySelectorAll('.help')].map((p) => p.textContent)"
    helps = tab.driver.execute_script(script)
    assert len(helps) == 13 and all(helps)
    losses = tab.chart("training", "")
    assert set(losses) >= {"net/adam", "net/natural"} and len(losses["net/adam"][0]) > 500


def test_choices_change_the_charts(tab, servers):
    tab.open_runs(servers["fast"])
    tab.chart("spectrum")
    tab.click('input[data-kind="sampled"]')
    tab.until("return document.querySelector('[data-chart=spectrum] .plot').data.length == 2")
    script = """
        const choice = document.querySelector(`[data-choice=${arguments[0]}]`);
        choice.value = arguments[1];
        choice.dispatchEvent(new Event('change'));"""
    tab.driver.execute_script(script, "rankAxis", "linear")
    tab.until("return document.querySelector('[data-chart=spectrum] .plot').layout.xaxis.type == 'linear'")
    before = tab.chart("layer-statistics")["dense"]
    tab.driver.execute_script(script, "layerStatistic", "weight_norm")
    tab.until(
        "return document.querySelector('[data-chart=layer-statistics] .plot')"
        ".layout.yaxis.title.text.startsWith('weight norm')"
    )
    assert tab.chart("layer-statistics")["dense"] != before


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width, height", [(1280, 800), (1024, 640)])
def test_nothing_overlaps_or_is_cut(tab, servers, width, height, dark):
    tab.open_runs(servers["fast"], width=width, height=height, dark=dark)
    assert tab.driver.execute_script("return document.documentElement.classList.contains('dark')") is dark
    size = f"{width}x{height}_{'dark' if dark else 'light'}"
    for panel in (
        "training",
        "verdict",
        "spectrum",
        "gamma",
        "length",
        "layers",
        "statistics",
        "layer-statistics",
    ):
        tab.screenshot(f"{panel}_{size}", panel)
    wide = "return document.documentElement.scrollWidth <= innerWidth"
    assert tab.driver.execute_script(wide)
    # A text is cut if it reaches out of its chart.
    outside = """
        return [...document.querySelectorAll('.plot')].flatMap((plot) => {
          const frame = plot.getBoundingClientRect();
          return [...plot.querySelectorAll('.main-svg text')].filter((text) => {
            const box = text.getBoundingClientRect();
            return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1 ||
                                 box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
          }).map((text) => `${plot.parentElement.dataset.chart}: ${text.textContent}`);
        });"""
    assert tab.driver.execute_script(outside) == []


def test_dark_mode_follows_that_of_tensorboard(tab, servers):
    tab.open_runs(servers["fast"])
    tab.chart("spectrum")
    colour = "return document.querySelector('[data-chart=spectrum] .plot').layout.font.color"
    light = tab.driver.execute_script(colour)
    tab.driver.execute_script("window.parent.document.body.classList.add('dark-mode')")
    tab.until(f"{colour} != arguments[0]", light)
    tab.driver.execute_script("window.parent.document.body.classList.remove('dark-mode')")
    tab.until(f"{colour} == arguments[0]", light)


def test_no_run_chosen(tab, servers):
    tab.open_runs(servers["fast"])
    for run in ("net/adam", "net/natural"):
        tab.click(f'#runs input[data-run="{run}"]')
    tab.until("return document.querySelector('.empty h1')?.innerText == 'No run is chosen'")


def test_an_error_of_the_server_is_shown(tab, servers):
    tab.open_runs(servers["fast"])
    tab.tolerated = ("400 (BAD REQUEST)",)
    tab.driver.execute_script("window.plain = fetch; window.fetch = () => plain('./steps')")
    tab.click("#reload")
    tab.until("return !document.querySelector('.error').hidden")
    assert "the argument `run` is missing" in tab.text(".error")
    assert set(tab.chart("spectrum"))  # what was known stays
    tab.driver.execute_script("window.fetch = window.plain")
    tab.click("#reload")
    tab.until("return document.querySelector('.error').hidden")


def wait_for(look, wanted):
    """What is seen, when it is as wanted or the time is up: charts are drawn some frames later."""
    deadline = time.monotonic() + LIMIT
    while (seen := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


def choose(tab, *runs):
    tab.click("#none")
    for run in runs:
        tab.click(f'#runs input[data-run="{run}"]')


def open_many(tab, servers, **arguments):
    tab.open(servers["many"], **arguments)
    tab.until(f"return document.querySelectorAll('#runs input').length == {len(LONG_NAMES) + 1}")


def test_a_run_that_diverged_says_so_and_its_verdict_is_none_of_today(tab, servers):
    open_many(tab, servers)
    choose(tab, "diverged")
    tab.until("return document.querySelector('.diverged')")
    assert "the loss is not finite since step 30" in tab.text(".diverged")
    tab.until("return document.querySelector('.verdict.outdated')")
    assert tab.text(".verdict .age").startswith("This is of step 1, before training diverged")
    (points,) = tab.chart("training", "").values()
    assert points[0][-1] == 400 and points[1][-1] is None
    tab.screenshot("diverged", "training")
    choose(tab, LONG_NAMES[0])
    tab.until("return !document.querySelector('.diverged')")


@pytest.mark.parametrize("width, height", [(1280, 800), (1024, 640)])
def test_twenty_runs_with_long_names(tab, servers, width, height):
    open_many(tab, servers, width=width, height=height)
    tab.until("return document.querySelectorAll('#runs input:checked').length == 2")
    assert "The 2 written to last are chosen" in tab.text(".runs .note")
    names = tab.driver.execute_script(
        "return [...document.querySelectorAll('#runs .check')].map((l) => [l.title, l.innerText.trim()])"
    )
    assert [whole for whole, _ in names] == sorted([*LONG_NAMES, "diverged"])
    assert len({short for _, short in names}) == len(names) and max(len(short) for _, short in names) <= 17
    cut = "[...document.querySelectorAll('#runs .name')].some((name) => name.scrollWidth > name.clientWidth)"
    assert not tab.driver.execute_script(f"return {cut}")  # what tells runs apart is not cut off again
    groups = "[...document.querySelectorAll('.side .group:not(.runs)')]"
    below = tab.driver.execute_script(
        f"return {groups}.map((g) => g.getBoundingClientRect().bottom - innerHeight)"
    )
    assert max(below) <= 0
    tab.screenshot(f"many_runs_{width}x{height}", "training")
    tab.driver.execute_script(
        "const f = document.querySelector('#filter'); f.value = 'SEED-3'; f.dispatchEvent(new Event('input'))"
    )
    assert tab.driver.execute_script("return document.querySelectorAll('#runs input').length") == 4
    tab.click("#none")
    tab.click("#all")
    tab.until("return document.querySelectorAll('#runs input:checked').length == 4")
    tab.until("return document.querySelectorAll('[data-panel=spectrum] .run').length >= 4")
    headings = tab.driver.execute_script(
        "return [...document.querySelectorAll('[data-panel=spectrum] .run')].map((b) => b.innerText)"
    )
    assert len(set(headings)) == len(headings)


def test_a_run_that_is_deleted_while_it_is_shown_is_left_out(tab, servers):
    open_many(tab, servers)
    choose(tab, *LONG_NAMES[:2])
    tab.until("return document.querySelectorAll('[data-panel=verdict] .verdict').length == 2")
    tab.tolerated = ("404 (NOT FOUND)",)
    tab.driver.execute_script("""
        window.plain = fetch;
        window.pending = 0;
        window.fetch = (url) => {
          pending += 1;
          return plain(url.replace(/run=.*/, 'run=gone')).finally(() => { pending -= 1; });
        };""")
    tab.click(f'#runs input[data-run="{LONG_NAMES[2]}"]')
    tab.click("#reload")
    tab.until("return !document.querySelector('#reload').classList.contains('busy')")
    assert tab.driver.execute_script("return document.querySelector('.error').hidden")
    assert (
        tab.driver.execute_script("return document.querySelectorAll('[data-panel=verdict] .verdict').length")
        == 2
    )
    tab.until("return pending == 0")  # a late answer would be laid at the door of the next test
    tab.driver.execute_script("window.fetch = window.plain")


def test_steps_are_whole_on_every_axis(tab, servers):
    open_many(tab, servers)
    choose(tab, LONG_NAMES[0])
    for panel, run in (("training", ""), ("cosine", LONG_NAMES[0]), ("statistic-update_norm", "")):
        tab.chart(panel, run)
        tab.driver.execute_script(
            "const plot = document.querySelector(`[data-chart=${arguments[0]}] .plot`);"
            "Plotly.relayout(plot, {'xaxis.range': [3.1, 5.9]})",
            panel,
        )
        ticks = """
            const plot = document.querySelector(`[data-chart=${arguments[0]}] .plot`);
            return [...plot.querySelectorAll('.xtick text')].map((t) => t.textContent).join() == '4,5';"""
        tab.until(ticks, panel)


def test_download_of_what_is_shown(tab, servers):
    tab.open_runs(servers["fast"])
    tab.move(0)
    tab.until("return document.querySelector('.position').innerText.startsWith('step 1 ')")
    # The text of the file, at the point where the browser would ask where to put it.
    tab.driver.execute_script("""
        window.saved = [];
        HTMLAnchorElement.prototype.click = function () {
          saved.push([this.download, this.href]);
        };
        window.kept = {};
        const make = URL.createObjectURL.bind(URL);
        URL.createObjectURL = (blob) => {
          const url = make(blob);
          blob.text().then((text) => { kept[url] = text; });
          return url;
        };""")
    tab.click("#download-json")
    tab.click("#download-csv")
    tab.until("return Object.keys(kept).length == 2")
    files = tab.driver.execute_script("return saved.map(([name, url]) => [name, kept[url]])")
    (name, text), (csv_name, csv_text) = files
    assert (name, csv_name) == ("fisher-step-1.json", "fisher-step-1.csv")
    content = json.loads(text)
    assert content["runs"] == ["net/adam", "net/natural"] and len(content["verdicts"]) == 2
    (spectrum,) = [c for c in content["charts"] if (c["panel"], c["run"]) == ("spectrum", "net/adam")]
    (exact,) = [s for s in spectrum["series"] if s["name"] == "F, exact"]
    drawn = wait_for(lambda: tab.chart("spectrum")["F, exact"], (exact["x"], exact["y"]))
    assert (exact["x"], exact["y"]) == drawn
    rows = list(csv.DictReader(io.StringIO(csv_text)))
    table = [
        float(row["y"])
        for row in rows
        if (row["panel"], row["run"], row["series"]) == ("spectrum", "net/adam", "F, exact")
    ]
    assert table == drawn[1]
    assert {"gamma", "update_norm", "layers", "layer-statistics"} <= {row["panel"] for row in rows}


def test_runs_appear_where_there_were_none(tab, servers):
    """With the old loader; on the way, what an empty directory looks like."""
    tab.open(servers["old"])
    tab.until("return document.querySelector('.empty h1')")
    assert 'callbacks=[kfisher.callbacks.TensorBoard("runs/name")]' in tab.text(".empty")
    tab.screenshot("empty")
    # Without the larger run's scalars, which the old loader takes long to read.
    large = str(servers["fast"].log_dir / "net" / "adam" / "fisher")
    ignore = lambda folder, names: [n for n in names if folder == large and n.endswith(".test")]
    shutil.copytree(servers["fast"].log_dir, servers["old"].log_dir, dirs_exist_ok=True, ignore=ignore)
    tab.until(f"return Number(document.querySelector('#step').max) > {MEASUREMENTS}")
    assert tab.text(".empty") == ""
    _check_two_runs(tab)
