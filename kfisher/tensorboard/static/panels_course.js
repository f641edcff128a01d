// What was measured, against the step: γ, cosine, lengths, sizes. The cursor is the slider's step.

import {KINDS, MATRICES} from './kinds.js';

const SIZES = {
  effective_dimension: 'effective dimension (directions)',
  trace: 'trace (loss / parameter²)',
  condition: 'condition number (no unit)',
  largest: 'largest eigenvalue (loss / parameter²)',
};

export const OVER_STEPS = [
  {
    id: 'gamma',
    title: 'Quality γ of the direction',
    help: 'γ(d) = √(dᵀFd) / |dᵀ∇L| relative to that of the gradient (grey, 1): lower is better, and the natural ' +
      'gradient has the least. The band is one standard error over drawn labels.',
    needs: 'measurements',
    spec(context) {
      const series = MATRICES.map((kind) => course(context, kind, (m) => m.gamma[kind],
        kind === 'sampled' ? (m) => m.error.gamma : null));
      const one = course(context, 'gradient', () => 1);
      return {
        x: stepAxis(context.store, context.shared.map((m) => m.step)),
        y: {title: 'γ / γ of the gradient (no unit)', log: true, range: rangeOf([...series, one], context.store)},
        series: chosen(context.store, [...series, {...one, markers: false}]),
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
      const series = ['sampled', 'empirical'].map((kind) => course(context, kind, (m) => m.cosine[kind],
        kind === 'sampled' ? (m) => m.error.cosine : null));
      const values = series.flatMap((s) => s.y).filter((v) => v !== null);
      return {
        x: stepAxis(context.store, context.shared.map((m) => m.step)),
        y: {title: 'cosine (no unit)', range: [Math.min(-0.1, ...values.map((v) => v - 0.08)), 1.06]},
        series: chosen(context.store, series),
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
      const series = MATRICES.map((kind) => course(context, kind, (m) => m.step_norm[kind],
        kind === 'sampled' ? (m) => m.error.step_norm : null));
      const gradient = {...course(context, 'gradient', (m) => m.gradient_norm), axis: 'y2'};
      const withGradient = context.store.kinds.has('gradient');
      return {
        x: stepAxis(context.store, context.shared.map((m) => m.step)),
        y: {title: 'step length (parameter)', log: true, range: rangeOf(series, context.store)},
        y2: withGradient
          ? {title: '‖∇L‖ (loss / parameter)', log: true, range: rangeOf([gradient], context.store)} : null,
        series: chosen(context.store, [...series, gradient]),
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
      const read = (m, kind) => {
        const spectrum = m.spectra[kind];
        if (!spectrum) return null;
        return name === 'largest' ? spectrum.eigenvalues.values[0] : spectrum[name];
      };
      const series = MATRICES.map((kind) => course(context, kind, (m) => read(m, kind),
        kind === 'sampled' && name !== 'largest' ? (m) => m.spectra[kind]?.error[name] ?? 0 : null));
      return {
        x: stepAxis(context.store, context.shared.map((m) => m.step)),
        y: {title: SIZES[name], log: true, range: rangeOf(series, context.store)},
        series: chosen(context.store, series),
      };
    },
  },
];

// Over all the given steps; the same for every chart of them, with room for the cursor at either end.
export function stepAxis(store, steps) {
  const log = store.stepAxis === 'log';
  const low = steps.reduce((a, b) => Math.min(a, b), Infinity);
  const high = steps.reduce((a, b) => Math.max(a, b), 1);
  const margin = 0.025 * (high - Math.min(low, high)) || 1;
  const range = log ? [0.8 * Math.max(low, 0.5), 1.25 * high] : [low - margin, high + margin];
  return {title: 'step', log, range: steps.length ? range : undefined, counts: true};
}

function course({data}, kind, read, readError = null) {
  return {
    kind,
    name: KINDS[kind].label,
    style: KINDS[kind],
    x: data.measurements.map((m) => m.step),
    y: data.measurements.map((m) => finite(read(m))),
    ...(readError ? {error: data.measurements.map((m) => finite(readError(m)) || 0)} : {}),
  };
}

function chosen(store, series) {
  return series.filter((s) => store.kinds.has(s.kind) && s.y.some((v) => v !== null));
}

function rangeOf(series, store) {
  const values = chosen(store, series).flatMap((s) => s.y).filter((v) => v > 0);
  if (!values.length) return undefined;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = Math.max((high / low) ** 0.06, 1.12);
  return [low / margin, high * margin];
}

function finite(value) {
  return Number.isFinite(value) ? value : null;
}
