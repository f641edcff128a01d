// The loss on top: of every step and on validation data, with the steps that were skipped or taken back; and
// whether a run has diverged.

import {runStyle} from './kinds.js';
import {stepAxis} from './panels_course.js';
import {scale} from './panels_statistics.js';
import {schema} from './schema.js';
import {show} from './verdict.js';

const BAD = '#d93a3a';
const AGAIN = 5; // steps in a row, and the factor below: where kfisher's optimizers warn, too
const GROWN = 10;

export const LOSS_TITLE = 'Loss';
export const LOSS_HELP = 'Of the batch of every step (faint the points, bold their moving average) and, as diamonds, ' +
  'on validation data. Red crosses: steps that were taken back; red circles: steps that were skipped.';

// One description for all runs; null if none has a loss.
export function lossSpec(runs, step, store, names) {
  const series = runs.flatMap(({run, data}) => {
    const style = runStyle(run.index);
    const name = names[run.name];
    const {x, y} = line(data, schema.lossLine);
    const {held_out: held} = data.steps || {};
    return [
      ...(x.length ? [{name, style, markers: false, noisy: true, x, y}] : []),
      ...(held?.x.length ? [{name: `${name}, validation`, style: {...style, symbol: 'diamond'}, ...held}] : []),
      ...events(data, schema.rejectedLine, `${name}: taken back`, 'x-thin'),
      ...events(data, schema.skippedLine, `${name}: skipped`, 'circle', true),
    ];
  });
  if (!series.length) return null;
  const ends = series.flatMap(({x}) => [x[0], x.at(-1)]);
  return {x: stepAxis(store, ends), y: scale(series, true, schema.statistics[schema.lossLine].unit), series, cursor: step};
}

// Dots at the height of the loss, where a count of such steps grows.
function events(data, counter, name, symbol, hollow = false) {
  const counts = line(data, counter);
  const loss = line(data, schema.lossLine);
  const heights = new Map(loss.x.map((x, i) => [x, loss.y[i]]));
  const finite = loss.y.filter((v) => v !== null);
  const top = finite.length ? Math.max(...finite) : 1;
  // A step counts those before it.
  const at = counts.x.map((_, i) => i).filter((i) => i && counts.y[i] > counts.y[i - 1]).map((i) => counts.x[i - 1]);
  if (!at.length) return [];
  return [{name, style: {colour: BAD, dash: 'solid', symbol, hollow}, dots: true, x: at, y: at.map((x) => heights.get(x) ?? top)}];
}

function line(data, name) {
  const found = data.steps?.lines[name];
  return found ? {x: data.steps.axes[found.axis], y: found.values} : {x: [], y: []};
}

// What went wrong, {step, text}, if the run ends in it; else null.
export function divergence(data) {
  const {x, y} = line(data, schema.lossLine);
  const last = y.slice(-AGAIN);
  if (last.length && median(last) === Infinity) {
    const whole = last.every((v) => v === null);
    const before = y.slice(0, whole ? y.length : -AGAIN);
    const step = x[before.findLastIndex((v) => v !== null) + 1];
    const text = whole ? `is not finite since step ${show(step)}` : `is not finite in most of the last ${last.length} steps`;
    return {step, text: `Training has diverged: the loss ${text}.`};
  }
  const left = [[schema.rejectedLine, 'taken back'], [schema.skippedLine, 'skipped']].map(([name, words]) => {
    const counts = line(data, name);
    const from = counts.x.length - 1 - AGAIN;
    const grown = from >= 0 ? counts.y.at(-1) - counts.y[from] : 0;
    return {words, step: counts.x[from], all: grown > 0 && grown >= 0.9 * (counts.x.at(-1) - counts.x[from])};
  }).find(({all}) => all);
  if (left) return {step: left.step, text: `Training does not go on: the last steps, from ${show(left.step)} on, were ${left.words}.`};
  const known = y.filter((v) => v !== null);
  // Medians: one batch that is far out is no divergence.
  const [start, end] = [median(known.slice(0, AGAIN)), median(last)];
  if (known.length > 2 * AGAIN && start > 0 && end > (1 + GROWN) * start) {
    const since = x[y.slice(0, -AGAIN).findLastIndex((v) => v !== null && v <= (1 + GROWN) * start) + 1];
    return {step: since, text: `Training has diverged: the loss has grown from ${show(start)} to ${show(end)}, since step ${show(since)}.`};
  }
  return null;
}

// With what is not finite, null, at the upper end.
function median(values) {
  const sorted = values.map((v) => v ?? Infinity).sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}
