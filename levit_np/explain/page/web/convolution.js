"use strict";
// Convolution: the window over the input, the filter, their products and the sum; and all filters as pictures.

SPECIAL.convolution = async (stop, arrays, panels, choose) => {
  const { x, w, y } = arrays, { stride, padding } = stop.with, kernel = w.shape[2], around = kernel > 4 ? 1 : 2;
  const view = h("section", { class: "special" }, h("h2", {}, t("window")), h("p", { class: "note" }, t("windowNote", { kernel, stride, padding })));
  const stage = h("div", { class: "row" }), controls = h("div", { class: "choosers" });
  let channel = 0, playing = null;
  const input = h("input", { type: "number", min: 0, max: x.there(0).length - 1, value: 0, onchange: () => { channel = Number(input.value); draw(panels.y.index); } });
  const play = h("button", { type: "button", onclick: () => toggle() }, t("slide"));
  controls.append(h("label", {}, t("axis.input"), " ", input), play);

  const toggle = () => {
    if (playing) { clearInterval(playing); playing = null; play.textContent = t("slide"); return; }
    play.textContent = t("stop");
    playing = setInterval(() => {
      if (!document.contains(view)) { clearInterval(playing); return; }
      let [o, u, v] = panels.y.index;
      v += 1;
      if (v >= y.shape[2]) { v = 0; u = (u + 1) % y.shape[1]; }
      choose("y", [o, u, v]);
    }, 350);
  };

  const pictures = new Map();
  const picture = (tensor, k, label) => {
    const key = `${tensor === x} ${k}`;
    if (!pictures.has(key)) pictures.set(key, mapCanvas(tensor.shape[1], tensor.shape[2], (r, s) => tensor.at(k, r, s), { size: 140, label }));
    return pictures.get(key);
  };

  const draw = ([o, u, v]) => {
    const top = u * stride - padding, left = v * stride - padding;
    const shown = kernel + 2 * around, inside = (r, s) => r >= 0 && s >= 0 && r < x.shape[1] && s < x.shape[2];
    const patch = table(range(shown).map((i) => range(shown).map((j) => {
      const r = top - around + i, s = left - around + j, within = i >= around && i < around + kernel && j >= around && j < around + kernel;
      return { text: inside(r, s) ? x.text(channel, r, s) : within ? "0" : "", cls: `${within ? "window" : ""} ${inside(r, s) ? "" : "padding"}`, value: inside(r, s) ? x.at(channel, r, s) : 0, largest: Math.max(...x.extent.map(Math.abs)) };
    })), t("patchLabel"));
    const filter = table(range(kernel).map((i) => range(kernel).map((j) => ({ text: w.has([o, channel, i, j]) ? w.text(o, channel, i, j) : "—", value: w.at(o, channel, i, j), largest: Math.max(...w.extent.map(Math.abs)) }))), t("filterLabel"));
    const products = table(range(kernel).map((i) => range(kernel).map((j) => {
      const r = top + i, s = left + j, weight = w.at(o, channel, i, j), product = weight === undefined ? undefined : (inside(r, s) ? x.at(channel, r, s) : 0) * weight;
      return { text: digits(product), value: product, largest: 1 };
    })), t("productsLabel"));
    const share = (w.has([o, 0, 0, 0]) ? both(x, 0, w, 1) : []).map((c) => [c, range(kernel).reduce((a, i) => a + range(kernel).reduce((b, j) => b + (inside(top + i, left + j) ? x.at(c, top + i, left + j) : 0) * w.at(o, c, i, j), 0), 0)]);
    const where = (tensor, k, r, s, size, label) => h("span", { class: "overlay" }, picture(tensor, k, label), h("span", { class: "frame", "aria-hidden": "true",
      style: { top: `${100 * r / tensor.shape[1]}%`, left: `${100 * s / tensor.shape[2]}%`, height: `${100 * size / tensor.shape[1]}%`, width: `${100 * size / tensor.shape[2]}%` } }));
    const part = (caption, body) => h("figure", {}, h("figcaption", {}, caption), body), sign = (text) => h("span", { class: "sign", "aria-hidden": "true" }, text);
    const known = share.reduce((a, [, s]) => a + s, 0), missing = x.shape[0] - share.length;
    stage.replaceChildren(part(t("whereIn", { channel }), where(x, channel, top, left, kernel, t("whereIn", { channel }))), sign("→"), part(t("patch", { channel, row: top, column: left }), patch), sign("×"), part(t("filter", { o, channel }), filter), sign("="), part(t("products"), products), sign("Σ"),
      part(t("perChannel"), h("table", { class: "terms" }, h("tbody", {}, share.slice(0, 8).map(([c, s]) => h("tr", { class: c === channel ? "chosen" : "" }, h("th", { scope: "row" }, t("channelN", { c })), h("td", {}, digits(s)))),
        share.length > 8 ? h("tr", {}, h("th", { scope: "row" }, t("otherChannels", { n: share.length - 8 })), h("td", {}, digits(share.slice(8).reduce((a, [, s]) => a + s, 0)))) : null,
        missing ? h("tr", { class: "others" }, h("th", { scope: "row" }, t("channelsElsewhere", { n: missing })), h("td", {}, digits(y.at(o, u, v) - known))) : null),
        h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, `y[${o}, ${u}, ${v}]`), h("td", {}, h("b", {}, y.text(o, u, v))))))), sign("→"), part(t("whereOut", { o }), where(y, o, u, v, 1, t("whereOut", { o }))));
  };
  SPECIAL.convolution.onselect = (name, index) => name === "y" && draw(index);
  view.append(controls, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("window") }, stage));
  view.append(h("h2", {}, t("filters")), h("p", { class: "note" }, t(w.shape[1] === 3 ? "filtersColour" : "filtersGrey")), filterPictures(w));
  return view;
};

// A table of numbers with their colour behind them.
function table(rows, label) {
  const tint = (cell) => { if (!Number.isFinite(cell.value) || !cell.largest) return {}; const v = cell.value / cell.largest, [r, g, b] = signedColour(Math.max(-1, Math.min(1, v)) * 0.55); return { backgroundColor: `rgb(${r} ${g} ${b})`, color: "#111" }; };
  return h("table", { class: "numbers small", "aria-label": label }, h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", { class: cell.cls, style: tint(cell) }, cell.text))))));
}

// Each output channel's filter: in colour where it reads an RGB image, else one picture an input channel.
function filterPictures(w) {
  const outputs = w.there(0).slice(0, 32), inputs = w.there(1).slice(0, 12), [, , rows, columns] = w.shape;
  const largest = Math.max(...w.extent.map(Math.abs));
  if (w.shape[1] === 3) return h("div", { class: "filters" }, outputs.map((o) => {
    const canvas = h("canvas", { class: "map", width: columns, height: rows, role: "img", "aria-label": t("filterN", { o }) }), context = canvas.getContext("2d"), picture = context.createImageData(columns, rows);
    Object.assign(canvas.style, { width: "42px", height: "42px" });
    for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) picture.data.set([...[0, 1, 2].map((c) => Math.round(127.5 + 127.5 * w.at(o, c, i, j) / largest)), 255], 4 * (i * columns + j));
    context.putImageData(picture, 0, 0);
    return canvas;
  }));
  return h("div", { class: "filters" }, outputs.flatMap((o) => inputs.slice(0, w.shape[1] === 1 ? 1 : 4).map((c) => mapCanvas(rows, columns, (i, j) => w.at(o, c, i, j), { size: 34, largest, signed: true, label: t("filterOfChannel", { o, c }) }))));
}
