// Names of runs and layers, as short as the place for them and still told apart.

const SEPARATORS = /[/_\-.,= ]/;

// The middle left out: both ends tell more, and of a run the end (rate-1e-03-seed-2) the most.
export function shorten(name, length) {
  if (name.length <= length) return name;
  const tail = Math.floor((2 * (length - 1)) / 3);
  return `${name.slice(0, length - 1 - tail)}…${name.slice(-tail)}`;
}

// Of several names what tells them apart, each at most `length` long: {name: short}. As much of what all begin with is
// left out as they have to be shorter, and then of the middle.
export function distinct(names, length) {
  const excess = Math.max(...names.map((name) => name.length)) - length;
  const cuts = excess > 0 && names.length > 1 ? common(names) : [];
  const cut = cuts.find((at) => at > excess) ?? cuts.at(-1) ?? 0;
  const found = {};
  const taken = new Set();
  names.forEach((name, i) => {
    let short = shorten(cut > 1 ? `…${name.slice(cut)}` : name, length);
    if (taken.has(short)) short = `${shorten(short, length - 4)} #${i + 1}`;
    taken.add(short);
    found[name] = short;
  });
  return found;
}

// The places behind a separator up to which all names are the same.
function common(names) {
  const places = [];
  for (let i = 0; names.every((name) => i < name.length - 1 && name[i] === names[0][i]); i += 1) {
    if (SEPARATORS.test(names[0][i])) places.push(i + 1);
  }
  return places;
}
