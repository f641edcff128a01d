// What is known and what is chosen; whoever shows it listens.

import {fetchJson} from './api.js';
import {KINDS} from './kinds.js';
import {schema} from './schema.js';

const LISTS = ['measurements', 'verdicts', 'summary', 'notes', 'steps'];
export const SHOWN_AT_FIRST = 2;

const NOT_FOUND = 404;

class Store {
  constructor() {
    this.runs = [];
    this.selected = new Set(); // names
    this.touched = false; // whether the person has picked runs; until then the latest are
    this.data = new Map(); // by run: {versions, ranks, measurements, verdicts, steps, layers}
    this.step = null; // of the slider; null: the last one, also when more come
    this.kinds = new Set(Object.keys(KINDS));
    this.rankAxis = 'log';
    this.stepAxis = 'linear';
    this.size = 'effective_dimension';
    this.layerTrace = 'trace';
    [this.layerStatistic] = schema.layerStatistics;
    this.error = '';
    this.loaded = false;
    this.dark = false;
    this.listeners = [];
  }

  listen(listener) {
    this.listeners.push(listener);
  }

  change(values) {
    Object.assign(this, values);
    for (const listener of this.listeners) listener();
  }

  // Asks for what is new; position, runs and everything else that was chosen stay.
  reload() {
    this.reloading = (this.reloading || Promise.resolve()).then(() => this._reload());
    return this.reloading;
  }

  async _reload() {
    try {
      const {runs} = await fetchJson('runs');
      this.runs = runs;
      if (!this.touched) this.selected = withLatest(this.selected, runs);
      const there = new Set(runs.map((run) => run.name));
      for (const name of this.data.keys()) if (!there.has(name)) this.data.delete(name);
      const ended = await Promise.allSettled(this.shown().map((run) => this._fetch(run)));
      // A run that was deleted since the list was made is none; all others are shown, whatever became of one.
      const failed = ended.filter(({status, reason}) => status === 'rejected' && reason.code !== NOT_FOUND);
      this.change({error: failed.length ? failed[0].reason.message : '', loaded: true});
    } catch (error) {
      this.change({error: error.message, loaded: true});
    }
  }

  async select(runs, chosen) {
    const selected = new Set(this.selected);
    for (const run of runs) {
      if (chosen) selected.add(run);
      else selected.delete(run);
    }
    this.change({selected, touched: true});
    await this.reload();
  }

  async chooseLayerStatistic(layerStatistic) {
    this.layerStatistic = layerStatistic;
    await this.reload();
  }

  // The chosen runs that there are, in the order of the list: `{name, index, ...}`.
  shown() {
    return this.runs
      .map((run, index) => ({...run, index}))
      .filter((run) => this.selected.has(run.name));
  }

  async _fetch(run) {
    const old = this.data.get(run.name) || {versions: {}};
    const fresh = {...old, versions: {...old.versions}};
    await Promise.all(LISTS.map(async (list) => {
      const version = JSON.stringify(run[list] || null);
      if (old.versions[list] === version) return;
      fresh.versions[list] = version;
      if (list === 'steps') fresh.steps = run.steps ? await fetchJson('steps', {run: run.name}) : null;
      else Object.assign(fresh, run[list] ? await fetchJson(list, {run: run.name}) : {[list]: []});
    }));
    const layersVersion = `${fresh.versions.steps} ${this.layerStatistic}`;
    if (fresh.steps && fresh.steps.layers.length && fresh.versions.layers !== layersVersion) {
      fresh.layers = await fetchJson('layers', {run: run.name, statistic: this.layerStatistic});
      fresh.versions.layers = layersVersion;
    }
    this.data.set(run.name, fresh);
  }

  // Measured steps of the chosen runs, ascending: the positions of the slider.
  positions() {
    const steps = new Set();
    for (const run of this.shown()) {
      for (const m of (this.data.get(run.name) || {}).measurements || []) steps.add(m.step);
    }
    return [...steps].sort((a, b) => a - b);
  }

  // The step that the slider stands at; null if nothing was measured.
  position() {
    const positions = this.positions();
    if (!positions.length) return null;
    return this.step === null ? positions[positions.length - 1] : this.step;
  }
}

// The last entry with `step` at or before the given one.
export function atOrBefore(entries, step) {
  let found = null;
  for (const entry of entries || []) if (step !== null && entry.step <= step) found = entry;
  return found;
}

// Some runs to begin with: those written to last, added to the ones shown as they come in.
function withLatest(selected, runs) {
  const time = (run) => Math.max(...LISTS.map((list) => (run[list] ? run[list][1] : 0)));
  const measured = runs.filter((run) => run.measurements);
  const candidates = [...(measured.length ? measured : runs)].sort((a, b) => time(b) - time(a));
  const names = candidates.map((run) => run.name);
  const kept = names.filter((name) => selected.has(name));
  return new Set([...new Set([...kept, ...names])].slice(0, SHOWN_AT_FIRST));
}

export const store = new Store();
