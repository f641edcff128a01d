// The verdict card of a run: what may be said of EF at the slider's step, why, and how it went over the steps.

import {atOrBefore} from './store.js';

const LEVELS = {
  fine: {mark: '✓', label: 'fine, as far as the thresholds go'},
  warning: {mark: '!', label: 'off by more than the threshold'},
  bad: {mark: '✕', label: 'not to be trusted'},
  unknown: {mark: '?', label: 'cannot be judged'},
};

export function levelOf(verdict) {
  if (verdict.verdict === 'fine' || verdict.verdict === 'unknown') return verdict.verdict;
  return verdict.findings.some((finding) => finding.level === 'bad') ? 'bad' : 'warning';
}

// `now`: the last step of the run if the slider stands at its end, else null; `diverged`: {step, text} or null.
export function verdictCard({data, step, measurement, now, diverged}, jump) {
  const verdict = atOrBefore(data.verdicts, step);
  const level = verdict ? levelOf(verdict) : 'unknown';
  const card = element('div', `verdict level-${level}`);
  card.dataset.level = level;
  const head = element('div', 'verdict-head');
  head.append(badge(level), element('p', 'sentence', verdict ? verdict.sentence : 'No verdict at or before this step.'));
  const age = verdict ? outdated(verdict.step, now, diverged) : '';
  card.classList.toggle('outdated', Boolean(age));
  if (age) card.append(element('p', 'age', age));
  card.append(head);
  if (data.verdicts.length > 1) card.append(history(data.verdicts, verdict, jump));
  if (verdict) {
    const list = element('ul', 'findings');
    for (const finding of verdict.findings) list.append(findingItem(finding));
    card.append(list);
  }
  if (measurement) card.append(facts(measurement));
  for (const note of data.notes || []) card.append(element('p', 'note', note));
  return card;
}

const PERIODS = {
  fine: ['fine', 'EF is fine, as far as the thresholds go'],
  distorted: ['warning', 'EF distorts the step'],
  opposite: ['bad', 'the step of EF opposes the natural-gradient step'],
  inverted: ['bad', 'the steps of EF are long where the gradient is small'],
  misspecified: ['bad', 'a minimum, and EF is not its curvature'],
};

// From when to when each verdict held: how sure, and the two numbers that decide.
export function summaryList(periods) {
  const list = element('ul', 'findings');
  for (const {verdict, first, last, agreeing, measurements, numbers} of periods) {
    const [level, words] = PERIODS[verdict] || ['unknown', 'what was measured does not suffice to tell'];
    const item = element('li', 'finding');
    const text = element('div', 'finding-text');
    const steps = first === last ? `step ${show(first)}` : `steps ${show(first)} to ${show(last)}`;
    text.append(element('b', '', `${steps} `), `${words} (${agreeing} of ${measurements} measurements)`);
    const line = element('div', 'numbers');
    for (const [name, value] of Object.entries(numbers)) line.append(element('span', 'number', `${spaced(name)} ${show(value)}`));
    text.append(line);
    item.append(badge(level), text);
    list.append(item);
  }
  return list;
}

// What to say of a verdict that is none on the model as it is at the step `now`; empty if it is.
function outdated(judged, now, diverged) {
  if (now === null) return '';
  const of = `This is of step ${show(judged)}`;
  if (diverged && judged <= diverged.step) return `${of}, before training diverged: it says nothing of the model as it is now.`;
  return now > 2 * judged + 10 ? `${of}; the run has come to step ${show(now)} without another verdict.` : '';
}

function badge(level) {
  const mark = element('span', `badge level-${level}`, (LEVELS[level] || LEVELS.unknown).mark);
  mark.title = (LEVELS[level] || LEVELS.unknown).label;
  return mark;
}

function history(verdicts, current, jump) {
  const strip = element('div', 'history');
  for (const verdict of verdicts) {
    const cell = element('button', `cell level-${levelOf(verdict)}`);
    cell.type = 'button';
    cell.title = `step ${verdict.step}: ${verdict.verdict}`;
    cell.setAttribute('aria-label', cell.title);
    if (current && verdict.step === current.step) cell.classList.add('current');
    cell.addEventListener('click', () => jump(verdict.step));
    strip.append(cell);
  }
  return strip;
}

function findingItem(finding) {
  const item = element('li', 'finding');
  const text = element('div', 'finding-text');
  text.append(element('b', '', finding.name), ` ${finding.text}`);
  // Lists are in the download; a card is to be read at a glance.
  const numbers = Object.entries(finding.values || {}).filter(([, value]) => typeof value === 'number');
  if (numbers.length) {
    const line = element('div', 'numbers');
    for (const [name, value] of numbers) line.append(element('span', 'number', `${spaced(name)} ${show(value)}`));
    text.append(line);
  }
  item.append(badge(finding.level), text);
  return item;
}

function facts(m) {
  const ratio = m.step_norm.exact ? m.step_norm.empirical / m.step_norm.exact : null;
  const exact = m.spectra.exact;
  const entries = [
    ['step measured', m.step],
    ['examples N', m.examples],
    ['parameters P', m.parameters],
    ['damping λ', m.damping],
    ['‖∇L‖', m.gradient_norm],
    ['EF step / NG step', ratio],
    ...(m.trace_ratio === null || !exact ? [] :
      [['tr (F+λI)⁻¹EF', `${show(m.trace_ratio)} (${show(exact.effective_dimension)} if EF = F)`]]),
  ];
  const list = element('dl', 'facts');
  for (const [name, value] of entries) {
    const entry = element('div');
    entry.append(element('dt', '', name), element('dd', '', typeof value === 'string' ? value : show(value)));
    list.append(entry);
  }
  if (!m.complete) list.append(element('p', 'note', 'Compared in the span of the leading eigenvectors only.'));
  return list;
}

function spaced(name) {
  return name.replace(/_/g, ' ');
}

export function show(value) {
  if (value === null || value === undefined) return '–';
  if (Array.isArray(value)) return `[${value.map(show).join(', ')}]`;
  if (typeof value === 'object') return Object.entries(value).map(([k, v]) => `${spaced(k)} ${show(v)}`).join(', ');
  if (typeof value !== 'number') return String(value);
  if (Number.isInteger(value)) return value.toLocaleString('en');
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

export function element(tag, className = '', text = '') {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
