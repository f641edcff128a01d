// How the three Fishers and the gradient are drawn, and how runs are: colours that are told apart on light and on
// dark grey, and a dash and a marker for those who see them alike. The server makes schema.js.

import {schema} from './schema.js';

export const KINDS = schema.kinds;
export const MATRICES = schema.matrices;

const RUN_COLOURS = ['#8e63d6', '#c2479b', '#9a8b1f', '#a1664a', '#5f7f3f', '#5b6bd0'];
const RUN_DASHES = ['solid', 'dash', 'dot', 'dashdot'];
const TURN = 12; // runs, until colours and dashes have gone round together

// Of the run with the given place in the list of all runs: it stays the same when others are picked.
export function runStyle(index) {
  return {
    colour: RUN_COLOURS[(index + Math.floor(index / TURN)) % RUN_COLOURS.length],
    dash: RUN_DASHES[index % RUN_DASHES.length],
    symbol: 'circle',
  };
}

// From the first layer to the last: blue to yellow, in even steps.
export function layerStyle(index, count) {
  const t = count > 1 ? index / (count - 1) : 0;
  return {
    colour: `hsl(${Math.round(255 - 195 * t)}, 58%, ${Math.round(50 + 6 * t)}%)`,
    dash: 'solid', // dashes of noisy lines cannot be told apart
    symbol: 'circle',
  };
}

export function translucent(colour, alpha) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${alpha})`;
}

const DASHES = {solid: '', longdash: '10 3', dash: '6 4', dashdot: '7 3 2 3', dot: '2 3'};
const MARKERS = {
  circle: '<circle cx="16" cy="6" r="3"/>',
  'triangle-up': '<path d="M16 2 L20 9 L12 9 Z"/>',
  square: '<path d="M13 3 h6 v6 h-6 Z"/>',
  star: '<path d="M16 1 L17.6 4.6 L21 5 L18.5 7.4 L19.2 11 L16 9.2 L12.8 11 L13.5 7.4 L11 5 L14.4 4.6 Z"/>',
  diamond: '<path d="M16 2 L20 6 L16 10 L12 6 Z"/>',
};

// A line as the charts draw it, for a legend; an SVG element.
export function sample(style, marker = true) {
  const holder = document.createElement('span');
  holder.innerHTML = `<svg class="sample" width="32" height="12" viewBox="0 0 32 12" aria-hidden="true">
    <path d="M0 6 H32" stroke="${style.colour}" stroke-width="2" stroke-dasharray="${DASHES[style.dash]}"/>
    <g fill="${style.hollow ? 'none' : style.colour}" stroke="${style.colour}" stroke-width="1.5">${marker ? MARKERS[style.symbol] : ''}</g></svg>`;
  return holder.firstElementChild;
}
