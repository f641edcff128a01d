// Statistics of every optimizer step: one small chart for each, the chosen runs over each other; and of each layer.

import {layerStyle, runStyle} from './kinds.js';
import {stepAxis} from './panels_course.js';
import {shorten} from './names.js';
import {schema} from './schema.js';

// The statistics that some of the runs have, known ones first.
export function statisticsOf(runs) {
  const found = new Set(runs.flatMap(({data}) => (data.steps ? Object.keys(data.steps.lines) : [])));
  const known = Object.keys(schema.statistics).filter((name) => found.has(name));
  const all = [...known, ...[...found].filter((name) => !known.includes(name)).sort()];
  return all.filter((name) => name !== schema.lossLine); // it has a chart of its own
}

export function statisticTexts(name) {
  const unknown = {title: words(name), unit: '', sentence: 'A statistic of every step.', logarithmic: true, noisy: false};
  return Object.hasOwn(schema.statistics, name) ? schema.statistics[name] : unknown;
}

export function statisticSpec(name, runs, step, store, shown) {
  const {unit, logarithmic, noisy} = statisticTexts(name);
  const series = runs.filter(({data}) => data.steps && data.steps.lines[name]).map(({run, data}) => {
    const {axis, values} = data.steps.lines[name];
    const x = data.steps.axes[axis];
    return {name: shown[run.name], style: runStyle(run.index), markers: false, noisy, x, y: values};
  });
  return {
    x: stepAxis(store, ends(series)),
    y: scale(series, logarithmic, unit),
    series,
    cursor: step,
  };
}

// What to say when TensorBoard handed over fewer points than steps were logged.
export function sampledNote(runs) {
  const notes = runs.filter(({data}) => data.steps && data.steps.axes.length).map(({run, data}) => {
    const points = Math.max(...data.steps.axes.map((axis) => axis.length));
    return points >= 1000 && data.steps.last_step > points
      ? `${run.name}: ${points} of ${data.steps.last_step.toLocaleString('en')}` : null;
  }).filter(Boolean);
  return notes.length ? `Each line is a sample of its steps, as TensorBoard keeps them (${notes.join('; ')}).` : '';
}

export const LAYER_PANEL = {
  id: 'layer-statistics',
  title: 'Steps of each layer',
  help: 'One line for each layer, from the first (blue) to the last (yellow): a layer that stands still or jumps ' +
    'shows here.',
  choice: {
    name: 'layerStatistic',
    options: Object.fromEntries(schema.layerStatistics.map((name) => [name, words(name)])),
  },
  needs: 'layers',
  height: () => 340, // with room for the names below, where it is narrow
  spec({data, store}) {
    const {unit, noisy} = statisticTexts(store.layerStatistic);
    const names = inOrder(Object.keys(data.layers.lines), data.measurements);
    const series = names.map((name, index) => {
      const {axis, values} = data.layers.lines[name];
      const style = layerStyle(index, names.length);
      return {name: shorten(name, 22), style, markers: false, noisy, x: data.layers.axes[axis], y: values};
    });
    const y = scale(series, true, `${words(store.layerStatistic)} (${unit})`);
    return {x: stepAxis(store, ends(series)), y, series, legend: names.length <= 12};
  },
};

// That of the model, which measurements know; else by name, conv2d_2 before conv2d_10.
function inOrder(names, measurements) {
  const model = measurements.length ? measurements.at(-1).layers.map((layer) => layer.name) : [];
  const place = (name) => (model.includes(name) ? model.indexOf(name) : model.length);
  const compare = new Intl.Collator('en', {numeric: true}).compare;
  return names.sort((a, b) => place(a) - place(b) || compare(a, b));
}

function ends(series) {
  return series.flatMap(({x}) => (x.length ? [x[0], x.at(-1)] : []));
}

export function scale(series, mayBeLog, title) {
  const values = series.flatMap((s) => s.y).filter((v) => v !== null);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const log = mayBeLog && low > 0 && high / low > 10;
  return {title, log, range: log ? [low * 0.8, high * 1.25] : undefined};
}

function words(name) {
  return name.replace(/_/g, ' ');
}
