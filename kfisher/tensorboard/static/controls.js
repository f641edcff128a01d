// The bar on top (slider, play) and the column on the left (runs, legend, axes, files).

import {asCsv, asJson, save} from './download.js';
import {KINDS, runStyle, sample} from './kinds.js';
import {distinct} from './names.js';
import {SHOWN_AT_FIRST, store} from './store.js';
import {element} from './verdict.js';

const FRAME_MILLISECONDS = 120;
const NAME_LENGTH = 17; // of a run, in one line

export function createBar(parent) {
  const bar = element('header', 'bar');
  const play = button('play', '▶', 'Play through the measured steps');
  const slider = Object.assign(document.createElement('input'), {type: 'range', id: 'step', min: 0, step: 1});
  slider.setAttribute('aria-label', 'Measured step');
  const output = element('output', 'position');
  const reload = button('reload', '⟳', 'Ask TensorBoard for new data now (it is asked every 30 s anyway)');
  bar.append(play, slider, output, reload);
  parent.append(bar);

  const moveTo = (index) => {
    const positions = store.positions();
    if (!positions.length) return;
    store.change({step: index >= positions.length - 1 ? null : positions[index]});
  };
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = '▶';
    play.title = 'Play through the measured steps';
  };
  const start = () => {
    if (Number(slider.value) >= Number(slider.max)) moveTo(0);
    play.textContent = '❚❚';
    play.title = 'Pause';
    timer = setInterval(() => {
      moveTo(Number(slider.value) + 1);
      if (Number(slider.value) >= Number(slider.max)) stop();
    }, FRAME_MILLISECONDS);
  };
  play.addEventListener('click', () => (timer ? stop() : start()));
  slider.addEventListener('input', () => {
    if (timer) stop();
    moveTo(Number(slider.value));
  });
  reload.addEventListener('click', async () => {
    reload.classList.add('busy');
    await store.reload();
    reload.classList.remove('busy');
  });

  store.listen(() => {
    const positions = store.positions();
    const position = store.position();
    slider.max = Math.max(0, positions.length - 1);
    slider.disabled = play.disabled = positions.length < 2;
    const index = positions.filter((step) => step <= position).length - 1;
    slider.value = Math.max(0, index);
    output.textContent = positions.length
      ? `step ${position.toLocaleString('en')} · measurement ${Math.max(1, index + 1)} of ${positions.length}` : 'nothing measured';
  });
}

export function createSide(parent, shownNow) {
  const side = element('aside', 'side');
  const runs = createRuns(side);
  const legend = group(side, 'Legend');
  const axes = group(side, 'Axes');
  const files = group(side, 'Download');
  parent.append(side);

  for (const [kind, style] of Object.entries(KINDS)) {
    const [label, box] = checkbox(style.long_label, sample(style));
    box.dataset.kind = kind;
    box.checked = true;
    box.addEventListener('change', () => {
      const kinds = new Set(store.kinds);
      if (box.checked) kinds.add(kind);
      else kinds.delete(kind);
      store.change({kinds});
    });
    legend.append(label);
  }
  axes.append(
    select('rankAxis', 'rank', {log: 'log', linear: 'linear'}),
    select('stepAxis', 'step', {linear: 'linear', log: 'log'}),
  );
  const row = element('div', 'row');
  for (const [name, type, write] of [['json', 'application/json', asJson], ['csv', 'text/csv', asCsv]]) {
    const made = button(`download-${name}`, name.toUpperCase(), `The points of all charts at this step, as ${name.toUpperCase()}`);
    const download = () => save(`fisher-step-${store.position() ?? 'none'}.${name}`, type, write(shownNow()));
    made.addEventListener('click', () => requestAnimationFrame(download)); // after the charts, if they are to move
    row.append(made);
  }
  files.append(row);

  let known = '';
  store.listen(() => {
    const now = JSON.stringify([store.runs.map((run) => run.name), [...store.selected], store.touched]);
    if (now === known) return;
    known = now;
    runs.fill();
  });
}

// The list of runs: a filter, all and none of what it leaves, and a box for each.
function createRuns(side) {
  const body = group(side, 'Runs');
  body.parentElement.classList.add('runs');
  const filter = Object.assign(document.createElement('input'), {type: 'search', id: 'filter', placeholder: 'filter', spellcheck: false});
  filter.setAttribute('aria-label', 'Show only runs whose names contain this');
  const all = button('all', 'all', 'Choose all runs that are listed');
  const none = button('none', 'none', 'Choose none of the runs that are listed');
  const tools = element('div', 'tools');
  tools.append(filter, all, none);
  const list = element('div', 'list');
  list.id = 'runs';
  const note = element('p', 'note');
  body.append(tools, list, note);

  const listed = () => store.runs.map((run, index) => ({name: run.name, index}))
    .filter(({name}) => name.toLowerCase().includes(filter.value.trim().toLowerCase()));
  const fill = () => {
    const shown = listed();
    const short = distinct(shown.map(({name}) => name), NAME_LENGTH);
    list.replaceChildren(...shown.map(({name, index}) => {
      const [label, box] = checkbox(short[name], sample(runStyle(index), false), name);
      box.dataset.run = name;
      box.checked = store.selected.has(name);
      box.addEventListener('change', () => store.select([name], box.checked));
      return label;
    }));
    tools.hidden = store.runs.length <= SHOWN_AT_FIRST;
    const preselected = store.runs.length > SHOWN_AT_FIRST && !store.touched;
    note.textContent = !store.runs.length ? 'none yet' : !shown.length ? 'no name contains this'
      : preselected ? `The ${SHOWN_AT_FIRST} written to last are chosen at first.` : '';
  };
  filter.addEventListener('input', fill);
  const choose = (chosen) => store.select(listed().map(({name}) => name), chosen);
  all.addEventListener('click', () => choose(true));
  none.addEventListener('click', () => choose(false));
  return {fill};
}

// A choice of one of `options` ({value: text}) that is kept in the store under `name`.
export function select(name, text, options) {
  const label = element('label', 'choice');
  const made = document.createElement('select');
  made.dataset.choice = name;
  for (const [value, shown] of Object.entries(options)) made.append(new Option(shown, value));
  made.value = store[name];
  made.addEventListener('change', () => {
    if (name === 'layerStatistic') store.chooseLayerStatistic(made.value);
    else store.change({[name]: made.value});
  });
  if (text) label.append(`${text} `);
  else made.setAttribute('aria-label', name);
  label.append(made);
  return label;
}

function group(parent, title) {
  const holder = element('section', 'group');
  const body = element('div', 'body');
  holder.append(element('h2', '', title), body);
  parent.append(holder);
  return body;
}

function checkbox(text, picture, whole = text) {
  const label = element('label', 'check');
  const box = Object.assign(document.createElement('input'), {type: 'checkbox'});
  const name = element('span', 'name', text);
  label.title = whole;
  label.append(box, picture, name);
  return [label, box];
}

function button(id, text, title) {
  const made = element('button', '', text);
  return Object.assign(made, {id, type: 'button', title});
}
