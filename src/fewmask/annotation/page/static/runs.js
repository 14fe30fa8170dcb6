// Encodes the pixels of a region's box as runs along its rows. A run is a pair of unsigned 32-bit numbers,
// little-endian: a value and the number of its pixels. The text is base64. The server's side is page/rle_codec.py.

export function encode(values) {
  const runs = [];
  for (let start = 0, i = 1; i <= values.length; i++) {
    if (i === values.length || values[i] !== values[start]) {
      runs.push(values[start], i - start);
      start = i;
    }
  }
  const view = new DataView(new ArrayBuffer(runs.length * 4));
  runs.forEach((number, i) => view.setUint32(i * 4, number, true));
  const bytes = new Uint8Array(view.buffer);
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

export function decode(text, size) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const values = new Uint16Array(size);
  let at = 0;
  for (let i = 0; i < bytes.length; i += 8) {
    const end = at + view.getUint32(i + 4, true);
    values.fill(view.getUint32(i, true), at, end);
    at = end;
  }
  if (at !== size) throw new Error(`runs of ${at} pixels, not ${size}`);
  return values;
}
