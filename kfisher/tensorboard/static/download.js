// What is shown, as a file: all charts with their points, and the verdicts.

export function asJson(shown) {
  return JSON.stringify(shown, null, 1);
}

export function asCsv({charts}) {
  const rows = [['panel', 'run', 'step', 'series', 'x_title', 'x', 'y_title', 'y', 'standard_error']];
  for (const chart of charts) {
    for (const series of chart.series) {
      series.x.forEach((x, i) => {
        const error = series.standard_error ? series.standard_error[i] : '';
        const row = [chart.panel, chart.run, chart.step, series.name, chart.x_title, x, series.y_title, series.y[i], error];
        rows.push(row);
      });
    }
  }
  return rows.map((row) => row.map(cell).join(',')).join('\r\n') + '\r\n';
}

// The points of a chart's description, without its looks.
export function points(panel, run, step, spec) {
  return {
    panel,
    run,
    step,
    x_title: spec.x.title,
    series: spec.series.map((series) => ({
      name: series.name,
      y_title: (series.axis === 'y2' ? spec.y2 : spec.y).title || 'layer',
      x: series.x,
      y: series.y,
      ...(series.error ? {standard_error: series.error} : {}),
    })),
  };
}

export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], {type}));
  const link = Object.assign(document.createElement('a'), {href: url, download: name});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// A name that a spreadsheet would take for a formula is marked as text; numbers may begin with a minus.
function cell(value) {
  let text = value === null || value === undefined ? '' : String(value);
  if (typeof value === 'string' && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}
