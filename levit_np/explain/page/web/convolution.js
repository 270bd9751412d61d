"use strict";
// Convolution: the window over the input, the filter, their products and the sum; and all filters as pictures.

SPECIAL.convolution = async (stop, arrays, panels, choose) => {
  const { stride, padding } = stop.with;
  const kernel = arrays.w.shape[2];
  const view = h("section", { class: "special" });
  const stage = h("div", { class: "row" });
  const pictures = cachedPictures();
  const last = arrays.x.there(0).length - 1;
  let channel = 0;
  const draw = (cell) => stage.replaceChildren(...windowAt(arrays, stop.with, cell, channel, pictures));
  const pick = (event) => {
    channel = wholeNumber(event.target.value, last);
    event.target.value = channel;
    draw(panels.y.index);
  };
  const input = h("input", { type: "number", min: 0, max: last, value: 0, onchange: pick });
  SPECIAL.convolution.onselect = (name, index) => name === "y" && draw(index);
  view.append(
    h("h2", {}, t("window")),
    h("p", { class: "note" }, t("windowNote", { kernel, stride, padding })),
    h(
      "div",
      { class: "choosers" },
      h("label", {}, t("axis.input"), " ", input),
      slider(arrays.y, panels, choose, view),
    ),
    scrolling(t("window"), stage),
    h("h2", {}, t("filters")),
    h("p", { class: "note" }, t(arrays.w.shape[1] === 3 ? "filtersColour" : "filtersGrey")),
    filterPictures(arrays.w),
  );
  return view;
};

// A button that moves the window cell by cell until it is pressed again or the view is left.
function slider(y, panels, choose, view) {
  let timer = null;
  const stopSliding = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = t("slide");
  };
  const step = () => {
    if (!document.contains(view)) return stopSliding();
    const [o, u, v] = panels.y.index;
    const next = u * y.shape[2] + v + 1;
    choose("y", [o, Math.floor(next / y.shape[2]) % y.shape[1], next % y.shape[2]]);
  };
  const press = () => {
    if (timer) return stopSliding();
    button.textContent = t("stop");
    timer = setInterval(step, 350);
  };
  const button = h("button", { type: "button", onclick: press }, t("slide"));
  return button;
}

// Pictures of channels, each drawn once: the window slides over the same ones.
function cachedPictures() {
  const drawn = new Map();
  return (tensor, channel, label) => {
    const key = `${label} ${channel}`;
    const value = (r, s) => tensor.at(channel, r, s);
    if (!drawn.has(key)) drawn.set(key, mapCanvas(tensor.shape[1], tensor.shape[2], value, { size: 140, label }));
    return drawn.get(key);
  };
}

// One output cell: its window in the input, the filter, the products and the output, side by side.
function windowAt({ x, w, y }, { stride, padding }, [o, u, v], channel, pictures) {
  const kernel = w.shape[2];
  const around = kernel > 4 || innerWidth < 480 ? 1 : 2; // pixels shown beside the window
  const [top, left] = [u * stride - padding, v * stride - padding];
  const inside = (r, s) => r >= 0 && s >= 0 && r < x.shape[1] && s < x.shape[2];
  const value = (c, i, j) => (inside(top + i, left + j) ? x.at(c, top + i, left + j) : 0);
  const square = (size, cell) => range(size).map((i) => range(size).map((j) => cell(i, j)));
  const most = (tensor) => Math.max(...tensor.extent.map(Math.abs));
  const patch = square(kernel + 2 * around, (i, j) => {
    const [r, s] = [top - around + i, left - around + j];
    const within = Math.min(i, j) >= around && Math.max(i, j) < around + kernel;
    const text = inside(r, s) ? x.text(channel, r, s) : within ? "0" : "";
    const cls = `${within ? "window" : ""} ${inside(r, s) ? "" : "padding"}`;
    return { text, cls, value: inside(r, s) ? x.at(channel, r, s) : 0, largest: most(x) };
  });
  const filter = square(kernel, (i, j) => {
    return { text: w.text(o, channel, i, j), value: w.at(o, channel, i, j), largest: most(w) };
  });
  const products = square(kernel, (i, j) => {
    const weight = w.at(o, channel, i, j);
    const product = weight === undefined ? undefined : value(channel, i, j) * weight;
    return { text: digits(product), value: product, largest: 1 };
  });
  const where = (tensor, k, row, column, size, label) =>
    h("span", { class: "overlay" }, pictures(tensor, k, label), cellFrame(tensor, row, column, size));
  const part = (caption, body) => h("figure", {}, h("figcaption", {}, caption), body);
  const sign = (text) => h("span", { class: "sign", "aria-hidden": "true" }, text);
  const [whereIn, whereOut] = [t("whereIn", { channel }), t("whereOut", { o })];
  return [
    part(whereIn, where(x, channel, top, left, kernel, whereIn)),
    sign("→"),
    part(t("patch", { channel, row: top, column: left }), table(patch, t("patchLabel"))),
    sign("×"),
    part(t("filter", { o, channel }), table(filter, t("filterLabel"))),
    sign("="),
    part(t("products"), table(products, t("productsLabel"))),
    sign("Σ"),
    part(t("perChannel"), channelSums({ x, w, y }, [o, u, v], channel, value)),
    sign("→"),
    part(whereOut, where(y, o, u, v, 1, whereOut)),
  ];
}

// A frame around some cells of a channel's picture.
const cellFrame = (tensor, row, column, size) =>
  h("span", {
    class: "frame",
    "aria-hidden": "true",
    style: {
      top: `${(100 * row) / tensor.shape[1]}%`,
      left: `${(100 * column) / tensor.shape[2]}%`,
      height: `${(100 * size) / tensor.shape[1]}%`,
      width: `${(100 * size) / tensor.shape[2]}%`,
    },
  });

// The window's sum for each channel, and their sum, the output; channels not on this page are shown as a remainder.
function channelSums({ x, w, y }, [o, u, v], chosen, value) {
  const kernel = range(w.shape[2]);
  const sumOf = (c) => add(kernel.flatMap((i) => kernel.map((j) => value(c, i, j) * w.at(o, c, i, j))));
  const sums = (w.has([o, 0, 0, 0]) ? both(x, 0, w, 1) : []).map((c) => [c, sumOf(c)]);
  const total = (some) => add(some.map(([, sum]) => sum));
  const row = (title, text, cls = "") => h("tr", { class: cls }, h("th", { scope: "row" }, title), h("td", {}, text));
  const rows = sums.slice(0, 8).map(([c, sum]) => row(t("channelN", { c }), digits(sum), c === chosen ? "chosen" : ""));
  const others = sums.slice(8);
  if (others.length) rows.push(row(t("otherChannels", { n: others.length }), digits(total(others))));
  const missing = x.shape[0] - sums.length;
  const rest = digits(y.at(o, u, v) - total(sums));
  if (missing) rows.push(row(t("channelsElsewhere", { n: missing }), rest, "others"));
  const result = row(`y[${o}, ${u}, ${v}]`, h("b", {}, y.text(o, u, v)));
  return h("table", { class: "terms" }, h("tbody", {}, rows), h("tfoot", {}, result));
}

// A table of numbers on coloured backgrounds.
function table(rows, label) {
  const tint = ({ value, largest }) => {
    if (!Number.isFinite(value) || !largest) return {};
    const [r, g, b] = signedColour(Math.max(-1, Math.min(1, value / largest)) * 0.55);
    return { backgroundColor: `rgb(${r} ${g} ${b})`, color: "#111" };
  };
  const cells = (row) => row.map((cell) => h("td", { class: cell.cls, style: tint(cell) }, cell.text));
  const body = h(
    "tbody",
    {},
    rows.map((row) => h("tr", {}, cells(row))),
  );
  return h("table", { class: "numbers small", "aria-label": label }, body);
}

// Each output channel's filter: in colour if it reads an RGB image, else a picture for each of the first inputs.
function filterPictures(w) {
  const outputs = w.there(0).slice(0, 32);
  const largest = Math.max(...w.extent.map(Math.abs));
  if (w.shape[1] === 3)
    return h(
      "div",
      { class: "filters" },
      outputs.map((o) => colourFilter(w, o, largest)),
    );
  const inputs = w.there(1).slice(0, w.shape[1] === 1 ? 1 : 4);
  const picture = (o, c) => {
    const options = { size: 34, largest, signed: true, label: t("filterOfChannel", { o, c }) };
    return mapCanvas(w.shape[2], w.shape[3], (i, j) => w.at(o, c, i, j), options);
  };
  return h(
    "div",
    { class: "filters" },
    outputs.flatMap((o) => inputs.map((c) => picture(o, c))),
  );
}

// A filter over red, green and blue as a picture of them; grey is zero.
function colourFilter(w, o, largest) {
  const [, , rows, columns] = w.shape;
  const canvas = h("canvas", {
    class: "map",
    width: columns,
    height: rows,
    role: "img",
    "aria-label": t("filterN", { o }),
  });
  Object.assign(canvas.style, { width: "42px", height: "42px" });
  const context = canvas.getContext("2d");
  const picture = context.createImageData(columns, rows);
  for (const i of range(rows))
    for (const j of range(columns)) {
      const rgb = [0, 1, 2].map((c) => Math.round(127.5 + (127.5 * w.at(o, c, i, j)) / largest));
      picture.data.set([...rgb, 255], 4 * (i * columns + j));
    }
  context.putImageData(picture, 0, 0);
  return canvas;
}
