// Changes the light of an image. Brightness, contrast and gamma, each from -100 to 100, make one table of 256 values.

export function table({ brightness, contrast, gamma }) {
  const slope = 2 ** (contrast / 50), power = 2 ** (-gamma / 50), shift = brightness / 100;
  return Uint8ClampedArray.from({ length: 256 }, (_, i) => 255 * (((i / 255) ** power - 0.5) * slope + 0.5 + shift));
}

// The image itself where nothing changes, or a canvas of it in another light.
export function adjusted(bitmap, light) {
  if (!light.brightness && !light.contrast && !light.gamma) return bitmap;
  const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
  const pen = canvas.getContext("2d", { willReadFrequently: true }), value = table(light);
  pen.drawImage(bitmap, 0, 0);
  const data = pen.getImageData(0, 0, canvas.width, canvas.height), pixels = data.data;
  for (let i = 0; i < pixels.length; i += 4) {
    pixels[i] = value[pixels[i]];
    pixels[i + 1] = value[pixels[i + 1]];
    pixels[i + 2] = value[pixels[i + 2]];
  }
  pen.putImageData(data, 0, 0);
  return canvas;
}
