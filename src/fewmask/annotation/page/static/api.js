// Reads from the page's server.

// The response to a request. Throws the server's message where it refuses.
export async function get(path) {
  const response = await fetch(`api/${path}`);
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Error(body.error ?? `the server says ${response.status}`);
}

export const getJson = async (path) => (await get(path)).json();
