"use strict";
// Pictures of numbers.

// -1 … 1 -> blue … white … red, the extremes dark enough to be told apart in grey.
function signedColour(v) {
  const a = Math.min(1, Math.abs(v)) ** 0.7;
  const end = v < 0 ? [18, 84, 170] : [190, 40, 20];
  return end.map((c) => Math.round(255 + (c - 255) * a));
}

// 0 … 1 -> pale … orange … dark
function positiveColour(v) {
  const stops = [
    [255, 252, 240],
    [253, 205, 110],
    [226, 101, 30],
    [90, 10, 30],
  ];
  const at = Math.min(0.9999, Math.max(0, v)) * 3,
    i = Math.floor(at);
  return stops[i].map((c, k) => Math.round(c + (stops[i + 1][k] - c) * (at - i)));
}

const colourOf = (signed) => (signed ? signedColour : positiveColour);

// A canvas of rows × columns, one pixel per number, enlarged by CSS; value(r, c) -> number, or undefined for grey.
function mapCanvas(rows, columns, value, { size = 168, largest = null, label = "", signed = null } = {}) {
  const values = [];
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) values.push(value(r, c));
  const finite = values.filter(Number.isFinite);
  largest ??= finite.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  signed ??= finite.some((v) => v < 0);
  const canvas = h("canvas", { class: "map", width: columns, height: rows, role: "img", "aria-label": label });
  const scale = size / Math.max(rows, columns);
  canvas.style.width = `${Math.max(1, Math.round(columns * scale))}px`;
  canvas.style.height = `${Math.max(1, Math.round(rows * scale))}px`;
  const context = canvas.getContext("2d"),
    picture = context.createImageData(columns, rows),
    colour = colourOf(signed);
  values.forEach((v, i) => {
    const rgb = Number.isFinite(v) ? colour(largest ? v / largest : 0) : [128, 128, 128];
    picture.data.set([...rgb, 255], 4 * i);
  });
  context.putImageData(picture, 0, 0);
  return canvas;
}

// The network's input image with the normalisation undone: x · std + mean.
async function imageCanvas(size, label) {
  const x = await tensors.get(doc.x),
    [channels, rows, columns] = x.shape;
  const canvas = h("canvas", {
    class: "map",
    width: columns,
    height: rows,
    role: "img",
    "aria-label": label ?? t("theImage"),
  });
  const scale = size / Math.max(rows, columns);
  canvas.style.width = `${Math.round(columns * scale)}px`;
  canvas.style.height = `${Math.round(rows * scale)}px`;
  const context = canvas.getContext("2d"),
    picture = context.createImageData(columns, rows);
  let low = 0,
    spread = 1;
  if (!doc.recipe) {
    const [a, b] = x.extent;
    low = a;
    spread = b - a || 1;
  }
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) {
      const rgb = [0, 1, 2].map((k) => {
        const channel = Math.min(k, channels - 1),
          v = x.at(channel, r, c);
        const shown = doc.recipe ? v * doc.recipe.std[channel] + doc.recipe.mean[channel] : (v - low) / spread;
        return Math.round(255 * shown);
      });
      picture.data.set([...rgb, 255], 4 * (r * columns + c));
    }
  context.putImageData(picture, 0, 0);
  return canvas;
}

// The image with a map of rows × columns over it; value(r, c), from 0 to 1, is how much of the image is visible.
async function overlay(rows, columns, value, { size = 168, label = "", signed = false, largest = null } = {}) {
  const image = await imageCanvas(size, label),
    over = mapCanvas(rows, columns, value, { size, signed, largest });
  over.className = "map over";
  over.style.width = image.style.width;
  over.style.height = image.style.height;
  over.setAttribute("aria-hidden", "true");
  over.removeAttribute("role");
  return h("span", { class: "overlay" }, image, over);
}

// A bar beside its number.
const bar = (share) =>
  h(
    "span",
    { class: "bar", "aria-hidden": "true" },
    h("span", { style: { width: `${100 * Math.min(1, Math.max(0, share))}%` } }),
  );
