// The tab "Fisher". TensorBoard imports this module into an empty page in an iframe and calls `render`.

import {createPage} from './page.js';
import {store} from './store.js';
import {followTheme} from './theme.js';

const RELOAD_SECONDS = 30;

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
  await store.reload();
  setInterval(() => document.hidden || store.reload(), RELOAD_SECONDS * 1000);
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
