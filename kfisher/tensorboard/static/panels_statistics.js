// Statistics of every optimizer step: one small chart for each, the chosen runs over each other; and of each layer.

import {layerStyle, runStyle} from './kinds.js';
import {stepAxis} from './panels_course.js';
import {shorten} from './panels_step.js';

// Lines that jump from step to step; of the others a moving average would blur what they say.
const NOISY = new Set(['update_norm', 'gradient_norm', 'update_to_gradient', 'cosine', 'kl']);

// tag: [title, unit, sentence, whether a wide range is drawn on a logarithmic axis]
const KNOWN = {
  update_norm: ['Update norm ‖Δθ‖', 'parameter', 'How far the weights moved in the step.', true],
  gradient_norm: ['Gradient norm ‖∇L‖', 'loss / parameter', 'The gradient that the optimizer was given.', true],
  update_to_gradient: ['Ratio ‖Δθ‖ / ‖∇L‖', 'parameter² / loss', 'Step length for each unit of gradient.', true],
  cosine: ['Cosine of Δθ and −∇L', 'no unit', '1 for plain gradient descent, 0 at a right angle.', false],
  distance: ['Distance ‖θ − θ₀‖', 'parameter', 'How far the weights are from where they began.', false],
  weight_norm: ['Weight norm ‖θ‖', 'parameter', 'Length of all weights after the step.', false],
  learning_rate: ['Learning rate', 'parameter² / loss', 'The learning rate of the step.', true],
  damping: ['Damping λ', 'loss / parameter²', 'What is added to the eigenvalues of the matrix.', true],
  kl: ['KL divergence of the step', 'loss', 'How much the step changes what the model predicts, ½ ΔᵀFΔ.', true],
  radius: ['Trust region', 'loss', 'The largest KL divergence that a step may have.', true],
  rejected_steps: ['Rejected steps', 'steps', 'Steps so far that were taken back: the loss jumped.', false],
  skipped_steps: ['Skipped steps', 'steps', 'Steps so far that were not finite and changed no weight.', false],
};

// The statistics that some of the runs have, known ones first.
export function statisticsOf(runs) {
  const found = new Set(runs.flatMap(({data}) => (data.steps ? Object.keys(data.steps.lines) : [])));
  const known = Object.keys(KNOWN).filter((name) => found.has(name));
  return [...known, ...[...found].filter((name) => !KNOWN[name]).sort()];
}

export function statisticTexts(name) {
  const [title, unit, sentence] = KNOWN[name] || [name.replace(/_/g, ' '), '', 'A statistic of every step.'];
  return {title, unit, sentence};
}

export function statisticSpec(name, runs, step, store) {
  const series = runs.filter(({data}) => data.steps && data.steps.lines[name]).map(({run, data}) => {
    const {axis, values} = data.steps.lines[name];
    const x = data.steps.axes[axis];
    return {name: run.name, style: runStyle(run.index), markers: false, noisy: NOISY.has(name), x, y: values};
  });
  return {
    x: stepAxis(store, ends(series)),
    y: scale(series, !KNOWN[name] || KNOWN[name][3], statisticTexts(name).unit),
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

export const LAYER_STATISTICS = {
  update_norm: 'update norm (parameter)',
  gradient_norm: 'gradient norm (loss / parameter)',
  weight_norm: 'weight norm (parameter)',
};

export const LAYER_PANEL = {
  id: 'layer-statistics',
  title: 'Steps of each layer',
  help: 'One line for each layer, from the first (blue) to the last (yellow): a layer that stands still or jumps ' +
    'shows here.',
  choice: {
    name: 'layerStatistic',
    options: {update_norm: 'update norm', gradient_norm: 'gradient norm', weight_norm: 'weight norm'},
  },
  needs: 'layers',
  height: () => 340, // with room for the names below, where it is narrow
  spec({data, store}) {
    const names = inOrder(Object.keys(data.layers.lines), data.measurements);
    const series = names.map((name, index) => {
      const {axis, values} = data.layers.lines[name];
      const style = layerStyle(index, names.length);
      const noisy = NOISY.has(store.layerStatistic);
      return {name: shorten(name, 22), style, markers: false, noisy, x: data.layers.axes[axis], y: values};
    });
    const y = scale(series, true, LAYER_STATISTICS[store.layerStatistic]);
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

function scale(series, mayBeLog, title) {
  const values = series.flatMap((s) => s.y).filter((v) => v !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const log = mayBeLog && low > 0 && high / low > 10;
  return {title, log, range: log ? [low * 0.8, high * 1.25] : undefined};
}
