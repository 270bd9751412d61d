"use strict";
// The whole network, after the paper's Figure 4: sizes to scale, costs, and the image on its way.

async function overviewView() {
  const parts = units(), view = h("div", { class: "overview" });
  view.append(h("h1", { tabindex: -1 }, t("overviewTitle", { model: doc.model.name })), h("p", {}, t("overviewIntro")));
  view.append(await answerLine(), scaleDrawing(parts));
  view.append(h("p", { class: "note" }, t("scaleNote")));
  for (const group of ["image", "stem", ...doc.model.config.stages.map((_, s) => `stages.${s}`), "heads"]) {
    const members = parts.filter((part) => (part.group ?? "image") === group);
    const heading = group === "image" ? t("image") : group === "heads" ? t("part.heads") : h("a", { href: address.to(`layer/${group}`) }, titleOf(group));
    view.append(h("h2", {}, heading), h("ol", { class: "cards" }, await Promise.all(members.map(card))));
  }
  return view;
}

// What the network answered, in a line.
async function answerLine() {
  const logits = await tensors.get(doc.logits), shares = softmaxOf(logits), first = doc.top[0];
  return h("p", { class: "answer" }, await imageCanvas(96), h("span", {}, t("answerIs"), " ", h("b", {}, doc.labels[first]),
    ` ${percent(shares[first])} `, h("a", { href: address.to("answer") }, t("why"))));
}

const percent = (share) => `${(100 * share).toFixed(2)} %`;

function softmaxOf(logits) {
  const values = range(logits.shape[0]).map((i) => logits.at(i)), largest = Math.max(...values);
  const e = values.map((v) => Math.exp(v - largest)), total = e.reduce((a, b) => a + b, 0);
  return e.map((v) => v / total);
}

async function card(part) {
  const picture = part.name === "image" ? await imageCanvas(84) : part.tensor === undefined ? null : await energyCanvas(part.tensor, 84, t("energyLabel", { name: part.title }));
  return h("li", { class: "card" }, h("a", { href: part.href }, picture, h("b", {}, part.title)),
    h("span", { class: "shape" }, times(part.shape)),
    part.macs ? h("span", { class: "cost" }, t("costs", { macs: short(part.macs), parameters: short(part.parameters) })) : null);
}

// Height: rows of pixels; width: channels; below, bars of multiply-adds and parameters.  All to scale.
function scaleDrawing(parts) {
  const step = 50, tall = 170, base = 190, rowHeight = 60;
  const pixels = Math.max(...parts.map((part) => part.shape[1] ?? 1)), channels = Math.max(...parts.map((part) => part.shape.length > 1 ? part.shape[0] : 1));
  const macs = Math.max(...parts.map((part) => part.macs)), parameters = Math.max(...parts.map((part) => part.parameters));
  const width = step * parts.length + 90, drawing = svg("svg", { viewBox: `0 0 ${width} ${base + 2 * rowHeight + 40}`, width, class: "scale", role: "group", "aria-label": t("scaleLabel") });
  [[base, "rowsChannels"], [base + rowHeight + 12, "macs"], [base + 2 * rowHeight + 24, "parameters"]].forEach(([y, key]) => drawing.append(svg("text", { x: 4, y: y - 4, class: "axis" }, t(key))));
  parts.forEach((part, i) => {
    const x = 90 + i * step, [c, rows] = part.shape.length > 1 ? part.shape : [part.shape[0], 1];
    const height = Math.max(2, (rows / pixels) * tall), wide = Math.max(2, Math.min(step - 6, (part.shape.length > 1 ? c / channels : 0.05) * (step - 8)));
    const label = t("scalePart", { name: part.title, shape: times(part.shape), macs: number(part.macs), parameters: number(part.parameters) });
    const link = svg("a", { href: part.href, "aria-label": label, class: part.group ?? "image" }, svg("title", {}, label),
      svg("rect", { x: x - 2, y: 0, width: step - 2, height: base + 2 * rowHeight + 36, class: "hit" }),
      svg("rect", { x, y: base - 16 - height, width: wide, height, class: "volume" }),
      svg("text", { x, y: base, class: "size" }, part.shape.length > 1 ? `${c}·${rows}²` : `${c}`));
    for (const [line, value, largest] of [[1, part.macs, macs], [2, part.parameters, parameters]]) {
      const tallBar = (value / largest) * (rowHeight - 20), y = base + line * (rowHeight + 12);
      if (value) link.append(svg("rect", { x, y: y - 12 - tallBar, width: step - 10, height: tallBar, class: "costbar" }), svg("text", { x, y, class: "size" }, short(value)));
    }
    drawing.append(link);
  });
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("scaleLabel") }, drawing);
}
