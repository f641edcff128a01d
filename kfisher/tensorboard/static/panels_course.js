// What was measured, against the step: γ, cosine, lengths, sizes. The cursor is the slider's step.

import {KINDS, MATRICES} from './kinds.js';

const SIZES = {
  effective_dimension: 'effective dimension (directions)',
  trace: 'trace (loss / parameter²)',
  condition: 'condition number (no unit)',
  largest: 'largest eigenvalue (loss / parameter²)',
};

// Of these there are steps: the matrices, and the optimizer's own.
const STEPS = [...MATRICES, 'taken'].filter((kind) => KINDS[kind]);

const gamma = (m, kind) => (kind === 'gradient' ? 1 : m.gamma[kind]);
const cosine = (m, kind) => m.cosine[kind];
const stepNorm = (m, kind) => m.step_norm[kind];
const gradientNorm = (m) => m.gradient_norm;
const ofSampled = (name) => (m, kind) => (kind === 'sampled' ? m.error[name] : null);

export const OVER_STEPS = [
  {
    id: 'gamma',
    title: 'Quality γ of the direction',
    help: 'γ(d) = √(dᵀFd) / |dᵀ∇L| relative to that of the gradient (grey, 1): lower is better, and the natural ' +
      'gradient has the least. The band is one standard error over drawn labels.',
    needs: 'measurements',
    spec(context) {
      const series = courses(context, [...STEPS, 'gradient'], gamma, ofSampled('gamma'));
      return {
        x: measuredSteps(context),
        y: {title: 'γ / γ of the gradient (no unit)', log: true, range: rangeOf(context, Object.keys(KINDS), gamma)},
        series: series.map((s) => (s.kind === 'gradient' ? {...s, markers: false} : s)),
      };
    },
  },
  {
    id: 'cosine',
    title: 'Cosine with the natural-gradient step',
    help: 'Angle of the EF step to the natural-gradient step: 1 is the same direction, 0 a right angle, below 0 ' +
      'opposite. Teal shows what mere sampling of labels costs.',
    needs: 'measurements',
    spec(context) {
      const kinds = STEPS.filter((kind) => kind !== 'exact');
      const lowest = Math.min(-0.1, ...valuesOf(context, kinds, cosine).map((v) => v - 0.08));
      return {
        x: measuredSteps(context),
        y: {title: 'cosine (no unit)', range: [lowest, 1.06]},
        series: courses(context, kinds, cosine, ofSampled('cosine')),
        levels: [{y: 1, label: ''}, {y: 0, label: 'right angle'}],
      };
    },
  },
  {
    id: 'length',
    title: 'Length of the step',
    help: '‖(M + λI)⁻¹∇L‖ for each matrix M, and the gradient norm (right axis): an orange line that rises while the ' +
      'grey one falls is the inversion of EF.',
    needs: 'measurements',
    spec(context) {
      const gradient = courses(context, ['gradient'], gradientNorm).map((s) => ({...s, axis: 'y2'}));
      const right = {title: '‖∇L‖ (loss / parameter)', log: true, range: rangeOf(context, ['gradient'], gradientNorm)};
      return {
        x: measuredSteps(context),
        y: {title: 'step length (parameter)', log: true, range: rangeOf(context, STEPS, stepNorm)},
        y2: gradient.length ? right : null,
        series: [...courses(context, STEPS, stepNorm, ofSampled('step_norm')), ...gradient],
      };
    },
  },
  {
    id: 'size',
    title: 'Size of the matrices',
    help: 'One number of each spectrum over time: how many directions rise above the damping, Σ λᵢ / (λᵢ + λ), ' +
      'the sum of the eigenvalues, or their spread.',
    needs: 'measurements',
    choice: {
      name: 'size',
      options: {effective_dimension: 'effective dimension', trace: 'trace', condition: 'condition number',
                largest: 'largest eigenvalue'},
    },
    spec(context) {
      const name = context.store.size;
      const size = (m, kind) =>
        (name === 'largest' ? m.spectra[kind]?.eigenvalues.values[0] : m.spectra[kind]?.[name]);
      const error = (m, kind) => (kind === 'sampled' ? m.spectra[kind]?.error[name] : null);
      return {
        x: measuredSteps(context),
        y: {title: SIZES[name], log: true, range: rangeOf(context, MATRICES, size)},
        series: courses(context, MATRICES, size, error),
      };
    },
  },
];

function measuredSteps({shared, store}) {
  return stepAxis(store, shared.map((m) => m.step));
}

// Over all the given steps; the same for every chart of them, with room for the cursor at either end.
export function stepAxis(store, steps) {
  const log = store.stepAxis === 'log';
  const low = steps.reduce((a, b) => Math.min(a, b), Infinity);
  const high = steps.reduce((a, b) => Math.max(a, b), 1);
  const margin = 0.025 * (high - Math.min(low, high)) || 1;
  const range = log ? [0.8 * Math.max(low, 0.5), 1.25 * high] : [low - margin, high + margin];
  return {title: 'step', log, range: steps.length ? range : undefined, counts: true};
}

// A line for each of the kinds that are ticked in the legend.
function courses({data, store}, kinds, read, readError = () => null) {
  return kinds.filter((kind) => store.kinds.has(kind)).map((kind) => {
    const errors = data.measurements.map((m) => finite(readError(m, kind)));
    return {
      kind,
      name: KINDS[kind].long_label,
      style: KINDS[kind],
      x: data.measurements.map((m) => m.step),
      y: data.measurements.map((m) => finite(read(m, kind))),
      ...(errors.some((e) => e !== null) ? {error: errors.map((e) => e || 0)} : {}),
    };
  }).filter((series) => series.y.some((v) => v !== null));
}

function valuesOf({shared, store}, kinds, read) {
  const ticked = kinds.filter((kind) => store.kinds.has(kind));
  return shared.flatMap((m) => ticked.map((kind) => finite(read(m, kind)))).filter((v) => v !== null);
}

// On a logarithmic axis; the same for all chosen runs.
function rangeOf(context, kinds, read) {
  const values = valuesOf(context, kinds, read).filter((v) => v > 0);
  if (!values.length) return undefined;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = Math.max((high / low) ** 0.06, 1.12);
  return [low / margin, high * margin];
}

function finite(value) {
  return Number.isFinite(value) ? value : null;
}
