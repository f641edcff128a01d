// Light or dark: as TensorBoard around this iframe, or, opened by itself, as the system.

export function followTheme(changed) {
  const parent = parentBody();
  const system = matchMedia('(prefers-color-scheme: dark)');
  const update = () => {
    const dark = parent ? parent.classList.contains('dark-mode') : system.matches;
    document.documentElement.classList.toggle('dark', dark);
    changed(dark);
  };
  if (parent) {
    new MutationObserver(update).observe(parent, {attributes: true, attributeFilter: ['class']});
  } else {
    system.addEventListener('change', update);
  }
  update();
}

function parentBody() {
  try {
    return window.parent === window ? null : window.parent.document.body;
  } catch {
    return null; // the page is embedded by another origin
  }
}

// What Plotly must be told, because it takes no colours from CSS.
export function chartColours(dark) {
  return dark
    ? {text: '#d7d9dc', faint: '#9aa0a6', grid: '#4a4d51', cursor: '#c9ccd1', hover: '#26282b',
       behind: 'rgba(58, 59, 61, 0.75)'}
    : {text: '#3c4043', faint: '#70757a', grid: '#e4e6e9', cursor: '#5f6368', hover: '#ffffff',
       behind: 'rgba(255, 255, 255, 0.75)'};
}
