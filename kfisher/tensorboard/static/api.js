// The numbers, from the server that serves this page and from nowhere else.

export async function fetchJson(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  let response;
  try {
    response = await fetch(`./${path}${query ? '?' + query : ''}`);
  } catch {
    throw new Error('TensorBoard does not answer. Is it still running?');
  }
  const text = await response.text();
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error(`TensorBoard answered ${response.status} to ${path}: ${text.slice(0, 200)}`);
  }
  if (!response.ok) {
    const error = new Error(content.error || `TensorBoard answered ${response.status} to ${path}`);
    throw Object.assign(error, {code: response.status});
  }
  return content;
}
