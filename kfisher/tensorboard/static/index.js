// The tab "Fisher". TensorBoard imports this module into an empty page in an iframe and calls `render`.

import {createPage} from './page.js';
import {store} from './store.js';
import {followTheme} from './theme.js';

// Soon after the page was opened TensorBoard is still reading: it is asked after 2, 4, 8, 16 seconds, then every 30.
const FIRST_SECONDS = 2;
const RELOAD_SECONDS = 30;
const RELOAD_SECONDS_WHILE_EMPTY = 5;

export async function render() {
  document.documentElement.lang = 'en';
  document.title = 'Fisher';
  const notice = document.createElement('p');
  notice.textContent = 'Loading …';
  document.body.append(notice);
  await Promise.all([stylesheet('./static/fisher.css'), script('./plotly.min.js')]);
  notice.remove();
  followTheme((dark) => store.change({dark}));
  createPage(document.body);
  await keepReloading();
}

async function keepReloading(seconds = FIRST_SECONDS) {
  if (!document.hidden) await store.reload();
  const longest = store.runs.length ? RELOAD_SECONDS : RELOAD_SECONDS_WHILE_EMPTY;
  setTimeout(keepReloading, 1000 * Math.min(seconds, longest), Math.min(2 * seconds, RELOAD_SECONDS));
}

function stylesheet(href) {
  const link = document.createElement('link');
  return loaded(Object.assign(link, {rel: 'stylesheet', href}));
}

function script(src) {
  return loaded(Object.assign(document.createElement('script'), {src}));
}

function loaded(element) {
  return new Promise((resolve, reject) => {
    element.onload = resolve;
    element.onerror = () => reject(new Error(`cannot load ${element.src || element.href}`));
    document.head.append(element);
  });
}
