// What was measured at the step of the slider: spectra, ratio eigenvalues, overlap, layers.
//
// A panel: {id, title, help, needs, spec(context), height(context)}; `context` is {run, data, measurement, step,
// shared, store}. `shared` holds the measurements of all chosen runs that go on, so that axes are the same for every
// one of them and every step: what moves is the curve.

import {KINDS, MATRICES} from './kinds.js';
import {shorten} from './names.js';

const HEIGHT = 280;
const DECADES = 9; // eigenvalues further below the largest are rounding errors of the solver

export const AT_STEP = [
  {
    id: 'spectrum',
    title: 'Spectra',
    help: 'Eigenvalues of each matrix against their rank, at the step of the slider; where the orange curve leaves the ' +
      'blue one and the teal one does not, EF misjudges the curvature. Both leave it where examples are few; below λ the ' +
      'damping hides the difference.',
    needs: 'measurements',
    spec({data, measurement, shared, store}) {
      const series = MATRICES.filter((kind) => store.kinds.has(kind) && measurement.spectra[kind]).map((kind) => {
        const {eigenvalues, error} = measurement.spectra[kind];
        return {
          name: KINDS[kind].long_label,
          style: KINDS[kind],
          x: data.ranks[eigenvalues.count],
          y: eigenvalues.values.map(positive),
          error: error.eigenvalues,
        };
      });
      const spectra = shared.flatMap((m) => Object.values(m.spectra).map((s) => s.eigenvalues));
      const top = Math.max(...spectra.map((e) => e.values[0] || 0));
      const bottom = Math.min(...spectra.map((e) => positive(e.values[e.values.length - 1]) || top));
      const incomplete = MATRICES.filter((kind) => measurement.spectra[kind] && !measurement.spectra[kind].complete);
      return {
        x: rankAxis(store, Math.max(...spectra.map((e) => e.count))),
        y: {title: 'eigenvalue (loss / parameter²)', log: true,
            range: [0.5 * Math.max(bottom, top * 10 ** -DECADES), 2 * top]},
        series,
        levels: measurement.damping > 0 ? [{y: measurement.damping, label: `damping λ = ${Number(measurement.damping.toPrecision(3))}`, right: true}] : [],
        note: incomplete.length ? `Only the leading eigenvalues are known of: ${labels(incomplete)}.` : '',
      };
    },
  },
  {
    id: 'ratio',
    title: 'EF relative to F',
    help: 'Each direction v in which F rises above the damping: (EF + λ) / (F + λ) along it, against its curvature ' +
      'vᵀFv; 1 if EF = F. Teal, the same with labels drawn from the model, is the spread that mere sampling gives.',
    needs: 'measurements',
    spec({measurement, shared, store}) {
      const kinds = ['sampled', 'empirical'].filter((kind) => measurement.curved?.[kind]);
      if (!kinds.length) throw new Error('this measurement has no ratios by curvature');
      const series = kinds.filter((kind) => store.kinds.has(kind)).map((kind) => ({
        name: kind === 'empirical' ? 'EF' : 'sampled labels',
        style: KINDS[kind],
        dots: true,
        x: measurement.curved[kind].curvature.map(positive),
        y: measurement.curved[kind].ratio.map(positive),
      }));
      const all = shared.flatMap((m) => Object.values(m.curved || {}));
      const curvatures = all.flatMap((c) => ends(c.curvature)).filter((v) => v > 0);
      const ratios = all.flatMap((c) => c.ratio).filter((v) => v > 0);
      const [low, high] = [Math.max(1e-6, smallest(0.5, ratios)), -smallest(-2, ratios.map((v) => -v))];
      const [left, right] = [smallest(Infinity, curvatures), -smallest(0, curvatures.map((v) => -v))];
      return {
        x: {title: 'curvature vᵀFv (loss / parameter²)', log: true, range: right > 0 ? [left / 1.5, 1.5 * right] : undefined},
        y: {title: 'EF ÷ F (no unit)', log: true, range: [0.7 * low, 1.4 * high]},
        series,
        levels: [{y: 1, label: 'EF = F', right: true}],
        note: curvatures.length ? '' : 'In no direction F rises above the damping.',
      };
    },
  },
  {
    id: 'overlap',
    title: 'Overlap of leading eigenspaces',
    help: 'Share of the k leading eigenvectors of F that lies in the span of the k leading ones of EF: 1 for the same ' +
      'space, about k / P (grey) for unrelated ones.',
    needs: 'measurements',
    spec({measurement, store}) {
      const series = Object.keys(measurement.overlap).filter((kind) => store.kinds.has(kind)).map((kind) => ({
        name: KINDS[kind].long_label,
        style: KINDS[kind],
        x: measurement.overlap_sizes,
        y: measurement.overlap[kind],
      }));
      series.push({
        name: 'unrelated (k / P)',
        style: {...KINDS.gradient, symbol: 'diamond'},
        markers: false,
        x: measurement.overlap_sizes,
        y: measurement.overlap_sizes.map((k) => Math.min(1, k / measurement.parameters)),
      });
      const sizes = measurement.overlap_sizes;
      return {
        x: {title: 'number k of eigenvectors', log: true, ticks: sizes, range: [0.85 * sizes[0], 1.18 * sizes.at(-1)]},
        y: {title: 'overlap (share, 0 to 1)', range: [-0.04, 1.06]},
        series,
      };
    },
  },
  {
    id: 'layers',
    title: 'Trace of each layer',
    help: 'How much of each matrix sits in which layer, at the step of the slider; a layer whose orange triangle is out ' +
      'of line is where EF departs.',
    needs: 'measurements',
    choice: {name: 'layerTrace', options: {trace: 'trace', share: 'share of the whole', mean: 'trace / parameters'}},
    height: ({measurement}) => (measurement ? Math.max(HEIGHT, 60 + 42 * measurement.layers.length) : HEIGHT),
    spec({measurement, shared, store}) {
      const {layers} = measurement;
      const kinds = MATRICES.filter((kind) => store.kinds.has(kind));
      const titles = {
        trace: 'trace (loss / parameter²)',
        share: 'share of the trace (0 to 1)',
        mean: 'trace / number of parameters (loss / parameter²)',
      };
      const series = kinds.map((kind) => ({
        name: KINDS[kind].long_label,
        style: KINDS[kind],
        dots: true,
        x: traces(layers, kind, store.layerTrace),
        y: layers.map((layer) => layer.name),
      }));
      const values = shared.flatMap((m) => kinds.flatMap((kind) => traces(m.layers, kind, store.layerTrace)))
        .filter((v) => v > 0);
      const log = store.layerTrace !== 'share';
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const range = log ? [0.5 * Math.max(low, high * 10 ** -DECADES), 1.6 * high] : [0, 1.05 * high];
      return {
        x: {title: titles[store.layerTrace], log, range: values.length ? range : undefined},
        y: {title: '', categories: layers.map(({name}) => ({name, text: shorten(name, 26)}))},
        series,
      };
    },
  },
];

function traces(layers, kind, choice) {
  const total = layers.reduce((sum, layer) => sum + layer[kind], 0) || 1;
  const divisor = {trace: () => 1, share: () => total, mean: (layer) => layer.parameters || 1}[choice];
  return layers.map((layer) => layer[kind] / divisor(layer));
}

function rankAxis(store, count) {
  const log = store.rankAxis === 'log';
  return {title: 'rank', log, counts: true, range: log ? [0.9, 1.15 * count] : [-0.02 * count, 1.02 * count]};
}

function positive(value) {
  return value > 0 ? value : null;
}

function smallest(start, values) {
  return values.reduce((a, b) => Math.min(a, b), start);
}

function ends(values) {
  return values.length ? [values[0], values[values.length - 1]].filter((v) => v !== null) : [];
}

function labels(kinds) {
  return kinds.map((kind) => KINDS[kind].long_label).join(', ');
}
