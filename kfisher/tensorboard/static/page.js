// The page: it turns what the store knows into panels, and keeps each chart as long as its panel and run are there.

import {Chart} from './chart.js';
import {createBar, createSide, select} from './controls.js';
import {points} from './download.js';
import {emptyState} from './empty.js';
import {runStyle, sample} from './kinds.js';
import {distinct} from './names.js';
import {LOSS_HELP, LOSS_TITLE, divergence, lossSpec} from './panel_loss.js';
import {OVER_STEPS} from './panels_course.js';
import {LAYER_PANEL, sampledNote, statisticSpec, statisticsOf, statisticTexts} from './panels_statistics.js';
import {AT_STEP} from './panels_step.js';
import {atOrBefore, store} from './store.js';
import {element, summaryList, verdictCard} from './verdict.js';

const HEIGHT = 280;
const LOSS_HEIGHT = 210;
const MOST_CELLS = 12; // runs with charts of their own; the loss and the statistics of steps have all
const HEADING_LENGTH = 48;
const MISSING = {
  measurements: 'This run has no spectra. They are logged by kfisher.callbacks.TensorBoard(log_dir, spectrum_freq=...).',
  layers: 'This run has no statistics of single layers; they are logged on request.',
};
const byId = Object.fromEntries(AT_STEP.map((panel) => [panel.id, panel]));
const courses = Object.fromEntries(OVER_STEPS.map((panel) => [panel.id, panel]));
const PANELS = [byId.spectrum, byId.ratio, courses.gamma, courses.cosine, courses.length, byId.overlap, courses.size,
                byId.layers, LAYER_PANEL];

const cells = new Map(); // "panel run" -> {cell, caption, chart, message, spec}
let shown = {charts: [], verdicts: []};
let names = {}; // of the chosen runs, as headings

export function createPage(body) {
  createBar(body);
  createSide(body, () => shown);
  const main = element('main');
  const error = element('p', 'error');
  error.setAttribute('role', 'alert');
  const empty = element('div', 'empty');
  const banners = element('div', 'banners');
  const summary = panelFrame({id: 'summary', title: 'The run', help: 'From when to when which verdict on EF held, how many ' +
    'measurements say so by themselves, and the two numbers that decide.'});
  const loss = panelFrame({id: 'training', title: LOSS_TITLE, help: LOSS_HELP});
  const verdicts = panelFrame({id: 'verdict', title: 'Verdict', help: 'Whether the empirical Fisher EF can stand in ' +
    'for the Fisher matrix F on this model: the last one at or before the step of the slider.'});
  const frames = PANELS.map(panelFrame);
  const statistics = panelFrame({id: 'statistics', title: 'Every step', help: 'Statistics of the optimizer’s steps, ' +
    'one line for each run: faint the points, bold their moving average. The vertical line ' +
    'is the step of the slider.'});
  const grid = element('div', 'grid');
  const cut = element('p', 'note cut');
  grid.append(summary.panel, loss.panel, verdicts.panel, cut, ...frames.slice(0, -1).map((f) => f.panel), statistics.panel, frames.at(-1).panel);
  main.append(error, banners, empty, grid);
  body.append(main);

  let scheduled = false;
  const update = () => {
    scheduled = false;
    error.textContent = store.error;
    error.hidden = !store.error;
    const chosen = store.shown().filter((run) => store.data.has(run.name))
      .map((run) => ({run, data: store.data.get(run.name)}));
    const runs = chosen.slice(0, MOST_CELLS);
    names = distinct(chosen.map(({run}) => run.name), HEADING_LENGTH);
    cut.textContent = runs.length < chosen.length
      ? `Of ${chosen.length} chosen runs the first ${MOST_CELLS} have charts of their own below; the loss and the statistics of every step are of all.` : '';
    empty.replaceChildren(...emptyState(store, runs));
    grid.hidden = !runs.length;
    grid.classList.toggle('several', runs.length > 1);
    shown = {step: store.position(), runs: chosen.map(({run}) => run.name), charts: [], verdicts: []};
    const kept = new Set();
    showBanners(banners, chosen);
    showSummaries(summary, runs);
    showLoss(loss, chosen, kept);
    showVerdicts(verdicts, runs);
    PANELS.forEach((panel, i) => showPanel(panel, frames[i], runs, kept));
    showStatistics(statistics, chosen, kept);
    for (const [key, entry] of cells) if (!kept.has(key)) discard(key, entry);
  };
  store.listen(() => {
    if (!scheduled) requestAnimationFrame(update);
    scheduled = true;
  });
}

function panelFrame({id, title, help, choice}) {
  const panel = element('section', 'panel');
  panel.dataset.panel = id;
  const head = element('div', 'head');
  head.append(element('h1', '', title));
  if (choice) head.append(select(choice.name, '', choice.options));
  const charts = element('div', 'charts');
  const note = element('p', 'note');
  panel.append(head, element('p', 'help', help), charts, note);
  return {panel, charts, note};
}

// A run that has diverged says so on top of everything.
function showBanners(holder, runs) {
  holder.replaceChildren(...runs.map(({run, data}) => [run, divergence(data)]).filter(([, found]) => found).map(([run, {text}]) => {
    const banner = element('p', 'diverged');
    banner.setAttribute('role', 'alert');
    banner.dataset.run = run.name;
    if (runs.length > 1) banner.append(element('b', '', names[run.name]), ' ');
    banner.append(text);
    return banner;
  }));
}

function showSummaries({panel, charts}, runs) {
  const judged = runs.filter(({data}) => data.summary?.length);
  panel.hidden = !judged.length;
  charts.replaceChildren(...judged.map(({run, data}) => {
    const cell = element('figure', 'cell-of-run');
    cell.append(caption(run, null, judged.length), summaryList(data.summary));
    return cell;
  }));
}

function showLoss(frame, runs, kept) {
  const spec = lossSpec(runs, store.position(), store, names);
  frame.panel.hidden = !spec;
  if (!spec) return;
  const entry = cellOf('training', {name: ''}, frame.charts, LOSS_HEIGHT);
  kept.add(entry.key);
  spec.key = keyOf('training', null, runs);
  spec.legend = runs.length > 1 && spec.series.length <= 8;
  entry.chart.set(spec, store.dark);
  shown.charts.push(...spec.series.map((series) => points('training', series.name, null, {...spec, series: [series]})));
}

function showVerdicts({panel, charts}, runs) {
  const judged = runs.filter(({data}) => data.verdicts.length || data.measurements.length);
  panel.hidden = !judged.length;
  const step = store.position();
  charts.replaceChildren(...judged.map(({run, data}) => {
    const cell = element('figure', 'cell-of-run');
    cell.dataset.run = run.name;
    const measurement = atOrBefore(data.measurements, step);
    const now = store.step === null ? (data.steps?.last_step ?? null) : null;
    cell.append(caption(run, atOrBefore(data.verdicts, step), judged.length),
                verdictCard({data, step, measurement, now, diverged: divergence(data)}, (to) => store.change({step: to})));
    return cell;
  }));
  shown.verdicts = judged.map(({run, data}) => ({run: run.name, verdict: atOrBefore(data.verdicts, step)}));
}

function showPanel(panel, frame, runs, kept) {
  const has = ({data}) => (panel.needs === 'layers' ? Boolean(data.layers) : data.measurements.length > 0);
  frame.panel.hidden = !runs.some(has);
  if (frame.panel.hidden) return;
  // Axes are the same for all runs, but for one that has diverged, beside which nothing would be seen of the others.
  const [whole, lost] = [false, true].map((bad) => runs.filter(({data}) => Boolean(divergence(data)) === bad));
  const together = whole.flatMap(({data}) => data.measurements);
  const step = store.position();
  const notes = [];
  for (const {run, data} of runs) {
    const entry = cellOf(panel.id, run, frame.charts, panel.height ? panel.height({}) : HEIGHT);
    kept.add(entry.key);
    const measurement = atOrBefore(data.measurements, step);
    const course = courses[panel.id] || panel.needs === 'layers';
    const missing = !has({data}) ? MISSING[panel.needs]
      : !course && !measurement ? 'Nothing was measured at or before this step.' : '';
    entry.caption.replaceChildren(...caption(run, course ? null : measurement, runs.length).childNodes);
    entry.message.textContent = missing;
    entry.message.hidden = !missing;
    entry.chart.element.hidden = Boolean(missing);
    if (missing) continue;
    const shared = lost.some((other) => other.run === run) ? data.measurements : together;
    const context = {run, data, measurement, step, shared, store};
    let spec;
    try {
      spec = panel.spec(context);
    } catch (error) { // the others are drawn
      entry.message.textContent = `This chart cannot be drawn: ${error.message}`;
      entry.message.hidden = false;
      entry.chart.element.hidden = true;
      continue;
    }
    if (course) spec.cursor = step;
    spec.key = keyOf(panel.id, course ? null : measurement.step, runs);
    if (spec.note) notes.push(runs.length > 1 ? `${names[run.name]}: ${spec.note}` : spec.note);
    entry.chart.set(spec, store.dark, panel.height ? panel.height(context) : HEIGHT);
    shown.charts.push(points(panel.id, run.name, course ? null : measurement.step, spec));
  }
  frame.note.textContent = notes.join(' ');
}

function showStatistics(frame, runs, kept) {
  const statistics = statisticsOf(runs);
  frame.panel.hidden = !statistics.length;
  for (const name of statistics) {
    const {title, sentence} = statisticTexts(name);
    const entry = cellOf(`statistic-${name}`, {name: ''}, frame.charts, 190);
    kept.add(entry.key);
    if (!entry.caption.childNodes.length) entry.caption.append(element('b', '', title), element('span', '', sentence));
    const spec = statisticSpec(name, runs, store.position(), store, names);
    spec.key = keyOf(name, null, runs);
    entry.chart.set(spec, store.dark);
    for (const series of spec.series) {
      shown.charts.push(points(name, series.name, null, {...spec, series: [{...series, name: title}]}));
    }
  }
  frame.note.textContent = sampledNote(runs);
}

// Changes with everything that a curve depends on.
function keyOf(panel, step, runs) {
  const versions = runs.map(({run, data}) => [run.name, data.versions]);
  const {rankAxis, stepAxis, size, layerTrace, layerStatistic, kinds} = store;
  return JSON.stringify([panel, step, versions, rankAxis, stepAxis, size, layerTrace, layerStatistic, [...kinds]]);
}

function cellOf(panel, run, parent, height) {
  const key = `${panel} ${run.name}`;
  if (!cells.has(key)) {
    const cell = element('figure', 'cell-of-run');
    cell.dataset.run = run.name;
    cell.dataset.chart = panel;
    const head = element('figcaption');
    const message = element('p', 'missing');
    cell.append(head, message);
    parent.append(cell);
    message.hidden = true;
    cells.set(key, {key, cell, caption: head, message, chart: new Chart(cell, height)});
  }
  return cells.get(key);
}

function discard(key, {cell, chart}) {
  chart.remove();
  cell.remove();
  cells.delete(key);
}

function caption(run, entry, count) {
  const made = element('figcaption');
  if (count > 1) {
    const heading = element('b', 'run', names[run.name]);
    heading.title = run.name;
    made.append(sample(runStyle(run.index), false), heading);
  }
  if (entry) made.append(element('span', 'at', `step ${entry.step.toLocaleString('en')}`));
  return made;
}
