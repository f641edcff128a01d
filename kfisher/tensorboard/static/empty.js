// What is shown when there is nothing to show: how to log something.

import {element} from './verdict.js';

const EXAMPLE = `import kfisher

model.fit(x, y, callbacks=[kfisher.callbacks.TensorBoard("runs/name")])`;

// Elements; none if there are charts.
export function emptyState(store, runs) {
  if (!store.loaded || runs.length) return [];
  if (store.runs.length) {
    return [element('h1', '', 'No run is chosen'), element('p', '', 'Tick one or several on the left.')];
  }
  if (store.error) return [];
  const code = element('pre');
  code.append(element('code', '', EXAMPLE));
  return [
    element('h1', '', 'No Fisher data yet'),
    element('p', '', 'This tab shows how long the steps of an optimizer are, and whether the empirical Fisher can be ' +
      'trusted on your model. Any Keras model and optimizer will do; add one callback to fit:'),
    code,
    element('p', '', 'Then start TensorBoard on the directory above it, tensorboard --logdir runs. Runs appear here ' +
      'within half a minute of their first measurement.'),
  ];
}
