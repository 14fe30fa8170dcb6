// Reads from the page's server.

// The response to a request. Throws the server's message, with its status, where it refuses.
export async function get(path) {
  const response = await fetch(`api/${path}`);
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw Object.assign(new Error(body.error ?? `the server says ${response.status}`), { status: response.status });
}

export const getJson = async (path) => (await get(path)).json();
