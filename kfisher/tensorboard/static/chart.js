// One chart: a plain description of lines or dots, drawn by Plotly when it comes into view.
//
// A description: {key, x: {title, log, range}, y: {...}, y2: {...}, series: [{name, x, y, error, style, markers,
// noisy, dots, axis}], levels: [{y, label}], cursor, note}. Two with the same `key` differ in nothing but
// the cursor, so that moving the slider moves a line and draws no curve again. `download.js` reads the same.

import {translucent} from './kinds.js';
import {chartColours} from './theme.js';

const FONT = 'Roboto, "Noto Sans", system-ui, -apple-system, "Segoe UI", sans-serif';
const CONFIG = {
  displaylogo: false,
  displayModeBar: true,
  // Named, because Plotly's own choice has a button that sends the chart to a server of theirs.
  modeBarButtons: [['toImage', 'pan2d', 'zoom2d', 'resetScale2d']],
  plotlyServerURL: '',
  showSendToCloud: false,
};

const charts = new WeakMap();
const visible = new IntersectionObserver(
  (entries) => entries.forEach((entry) => charts.get(entry.target)?.show(entry.isIntersecting)),
  {rootMargin: '150px', scrollMargin: '150px'},
);
const resized = new ResizeObserver((entries) => {
  for (const entry of entries) charts.get(entry.target)?.draw();
});

export class Chart {
  constructor(parent, height) {
    this.element = document.createElement('div');
    this.element.className = 'plot';
    this.element.style.height = `${height}px`;
    parent.append(this.element);
    this.visible = false;
    charts.set(this.element, this);
    visible.observe(this.element);
    resized.observe(this.element);
  }

  show(isVisible) {
    this.visible = isVisible;
    this.draw();
  }

  set(spec, dark, height) {
    this.spec = spec;
    this.dark = dark;
    if (height) this.element.style.height = `${height}px`;
    this.draw();
  }

  draw() {
    if (!this.visible || !this.spec || !this.element.clientWidth) return;
    const {spec, dark, element} = this;
    const key = `${spec.key} ${dark} ${element.clientWidth} ${element.clientHeight}`;
    if (key === this.drawn && this.cursor === spec.cursor) return;
    if (key === this.drawn) {
      Plotly.relayout(element, {shapes: shapes(spec, dark)});
    } else {
      Plotly.react(element, traces(spec), layout(spec, dark, element), CONFIG);
      if (!this.drawn) element.on('plotly_relayout', () => this.zoomed());
    }
    this.drawn = key;
    this.cursor = spec.cursor;
  }

  // However far one zooms in, there is no tick between two steps.
  zoomed() {
    const {xaxis} = this.element.layout;
    if (!this.spec.x.counts || xaxis.type !== 'linear') return;
    const dtick = wholeSteps(xaxis.range);
    if ((xaxis.dtick ?? null) !== dtick) Plotly.relayout(this.element, {'xaxis.dtick': dtick});
  }

  remove() {
    visible.unobserve(this.element);
    resized.unobserve(this.element);
    Plotly.purge(this.element);
    this.element.remove();
  }
}

function traces(spec) {
  return spec.series.flatMap((series) => (series.dots ? [dots(spec, series)] : lines(spec, series)));
}

function lines(spec, series) {
  const {style} = series;
  // A logarithmic axis has no place for step 0.
  const x = spec.x.log ? series.x.map((v) => (v > 0 ? v : 0.5)) : series.x;
  const line = {
    type: 'scatter',
    mode: series.markers === false ? 'lines' : 'lines+markers',
    name: series.name,
    x,
    y: series.y,
    yaxis: series.axis || 'y',
    connectgaps: false,
    line: {color: style.colour, dash: style.dash, width: series.markers === false ? 1.3 : 1.8},
    marker: {color: style.colour, symbol: symbolOf(style), size: 7, maxdisplayed: 12, line: {width: style.hollow ? 1.5 : 0}},
    hovertemplate: `%{y:.4~g}<extra>${escape(series.name)}</extra>`,
    showlegend: Boolean(spec.legend),
  };
  if (series.noisy) return noisy(spec, line);
  if (!series.error) return [line];
  const bound = (sign) => ({
    ...line,
    mode: 'lines',
    name: `${series.name} ${sign > 0 ? '+' : '−'} one standard error`,
    // On a logarithmic axis an error as large as the value has no lower end.
    y: series.y.map((v, i) => {
      const end = v + sign * (series.error[i] || 0);
      return spec.y.log && end <= 0 ? v * 1e-3 : end;
    }),
    line: {width: 0},
    fill: sign > 0 ? 'tonexty' : 'none',
    fillcolor: translucent(style.colour, 0.22),
    hoverinfo: 'skip',
    hovertemplate: undefined,
    showlegend: false,
  });
  return [bound(-1), bound(1), line];
}

// The points themselves, faint, and their moving average over a fortieth of the line.
function noisy(spec, line) {
  const average = movingAverage(line.y, Math.floor(line.y.length / 80), spec.y.log);
  return [
    {...line, opacity: 0.3, line: {...line.line, dash: 'solid', width: 1}, showlegend: false},
    {...line, y: average, line: {...line.line, width: 1.8}, hoverinfo: 'skip', hovertemplate: undefined},
  ];
}

function movingAverage(values, half, geometric) {
  const [to, from] = geometric ? [Math.log, Math.exp] : [(v) => v, (v) => v];
  return values.map((value, i) => {
    const near = values.slice(Math.max(0, i - half), i + half + 1).filter((v) => v !== null);
    return value === null ? null : from(near.reduce((sum, v) => sum + to(v), 0) / near.length);
  });
}

// Points on their own, all of them.
function dots(spec, series) {
  const {style} = series;
  return {
    type: 'scatter',
    mode: 'markers',
    name: series.name,
    x: spec.x.log ? series.x.map((v) => (v > 0 ? v : spec.x.counts ? 0.5 : null)) : series.x,
    y: series.y,
    marker: {color: style.colour, symbol: symbolOf(style), size: 8, opacity: 0.9,
             line: {width: style.hollow || style.symbol.includes('thin') ? 1.8 : 0, color: style.colour}},
    hovertemplate: `%{x:.4~g}, %{y:.4~g}<extra>${escape(series.name)}</extra>`,
    showlegend: Boolean(spec.legend),
  };
}

function symbolOf(style) {
  return style.hollow ? `${style.symbol}-open` : style.symbol;
}

function layout(spec, dark, element) {
  const colours = chartColours(dark);
  return {
    width: element.clientWidth,
    height: element.clientHeight,
    margin: {l: 62, r: spec.y2 ? 62 : 14, t: 10, b: 44},
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    font: {family: FONT, size: 11, color: colours.text},
    hovermode: spec.series.every((s) => s.dots) ? 'closest' : 'x unified',
    hoverlabel: {bgcolor: colours.hover, bordercolor: colours.grid, font: {color: colours.text, size: 11}},
    showlegend: Boolean(spec.legend),
    legend: {font: {size: 11}, bgcolor: 'rgba(0,0,0,0)', ...(element.clientWidth < 600
      ? {orientation: 'h', x: 0, y: -0.24, yanchor: 'top'} : {x: 1.01, y: 1, xanchor: 'left'})},
    xaxis: axis(spec.x, colours),
    yaxis: {...axis(spec.y, colours), automargin: true},
    ...(spec.y2 ? {yaxis2: {...axis(spec.y2, colours), overlaying: 'y', side: 'right', showgrid: false}} : {}),
    shapes: shapes(spec, dark),
    annotations: (spec.levels || []).filter((l) => l.label).map((level) => ({
      xref: 'paper', x: level.right ? 1 : 0.01, xanchor: level.right ? 'right' : 'left', yref: 'y', yanchor: 'bottom', showarrow: false,
      y: spec.y.log ? Math.log10(level.y) : level.y,
      text: level.label,
      font: {size: 10.5, color: colours.faint},
      bgcolor: colours.behind,
      borderpad: 1,
    })),
    modebar: {bgcolor: 'rgba(0,0,0,0)', color: colours.faint, activecolor: colours.text},
  };
}

function axis(description, colours) {
  const {title, log, range, categories, ticks, counts} = description;
  const result = {
    title: {text: title, font: {size: 11.5, color: colours.faint}, standoff: 6},
    type: categories ? 'category' : log ? 'log' : 'linear',
    gridcolor: colours.grid,
    linecolor: colours.grid,
    zerolinecolor: colours.grid,
    tickcolor: colours.grid,
    ticks: 'outside',
    ticklen: 4,
    tickfont: {size: 11},
    nticks: 7,
    exponentformat: 'power',
  };
  if (categories) {
    const names = {tickvals: categories.map((c) => c.name), ticktext: categories.map((c) => escape(c.text))};
    return {...result, ...names, autorange: 'reversed', ticks: '', fixedrange: true};
  }
  if (counts && !log) {
    result.tickformat = '~s'; // 2k and not 0.2×10⁴
    if (range) result.dtick = wholeSteps(range);
  }
  if (log && (ticks || range)) {
    result.tickvals = ticks || logarithmicTicks(counts ? Math.max(1, range[0]) : range[0], range[1]);
    result.ticktext = result.tickvals.map(power);
    if (counts && range[0] <= 0.5) { // where step 0 is drawn
      result.tickvals = [0.5, ...result.tickvals];
      result.ticktext = ['0', ...result.ticktext];
    }
  }
  if (range) result.range = log ? range.map(Math.log10) : range;
  return result;
}

// The distance of ticks on an axis of counts; null where Plotly's own is a whole number.
function wholeSteps([low, high]) {
  return Math.abs(high - low) < 8 ? 1 : null;
}

// Whole powers of ten, not more than seven of them; over less than two decades also 2 and 5 times these.
function logarithmicTicks(low, high) {
  const decades = Math.log10(high / low);
  const stride = Math.max(1, Math.ceil(decades / 7));
  const steps = decades < 2 ? [1, 2, 5] : [1];
  const found = [];
  for (let e = Math.floor(Math.log10(low) / stride) * stride; e <= Math.log10(high); e += stride) {
    found.push(...steps.map((s) => Number(`${s}e${e}`)).filter((v) => v >= low && v <= high));
  }
  return found;
}

function power(value) {
  if (value >= 1e-3 && value < 1e5) return value >= 1e4 ? `${value / 1000}k` : String(value);
  const [digit, exponent] = value.toExponential().split('e');
  const ten = `10<sup>${exponent.replace('+', '').replace('-', '−')}</sup>`;
  return digit === '1' ? ten : `${digit}·${ten}`;
}

function shapes(spec, dark) {
  const colours = chartColours(dark);
  const levels = (spec.levels || []).map((level) => ({
    type: 'line', xref: 'paper', x0: 0, x1: 1, yref: 'y', y0: level.y, y1: level.y, layer: 'below',
    line: {color: colours.faint, width: 1, dash: 'dot'},
  }));
  if (spec.cursor === undefined || spec.cursor === null) return levels;
  const x = spec.x.log && spec.cursor <= 0 ? 0.5 : spec.cursor;
  const line = {color: colours.cursor, width: 1.5};
  return [...levels, {type: 'line', xref: 'x', x0: x, x1: x, yref: 'paper', y0: 0, y1: 1, line}];
}

function escape(text) {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/%/g, '&#37;');
}
