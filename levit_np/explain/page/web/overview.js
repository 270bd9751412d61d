"use strict";
// The whole network, after the paper's Figure 4: sizes to scale, costs, and the image at each step.

async function overviewView() {
  const parts = units(),
    view = h("div", { class: "overview" });
  const { stages, distillation } = doc.model.config;
  const intro = [
    "overviewIntro",
    ...(stages.length > 1 ? ["overviewStages"] : []),
    distillation ? "overviewHeads" : "overviewHead",
    "overviewChoose",
  ];
  view.append(
    h("h1", { tabindex: -1 }, t("overviewTitle", { model: doc.model.name })),
    h("p", {}, intro.map((key) => t(key, wordsFor())).join(t("space"))),
  );
  view.append(await answerLine(), await scaleDrawing(parts));
  const { shape } = parts.find((part) => part.name !== "image");
  const example = { size: sizeLabel(shape), channels: shape[0], pixels: times(shape.slice(1)) };
  view.append(h("p", { class: "note" }, t("scaleNote", example)));
  for (const group of ["image", "stem", ...doc.model.config.stages.map((_, s) => `stages.${s}`), "heads"]) {
    const members = parts.filter((part) => (part.group ?? "image") === group);
    const heading =
      group === "image"
        ? t("image")
        : group === "heads"
          ? t("part.heads")
          : h("a", { href: address.to(`layer/${group}`) }, titleOf(group));
    view.append(h("h2", {}, heading), h("ol", { class: "cards" }, await Promise.all(members.map(card))));
  }
  return view;
}

// The network's prediction, in one line.
async function answerLine() {
  const logits = await tensors.get(doc.logits),
    shares = softmaxOf(logits),
    first = doc.top[0];
  return h(
    "p",
    { class: "answer" },
    h(
      "span",
      {},
      t("answerIs"),
      " ",
      h("b", {}, doc.labels[first]),
      ` ${percent(shares[first])} `,
      h("a", { href: address.to("answer") }, t("why")),
    ),
  );
}

const percent = (share) => `${(100 * share).toFixed(2)} %`;

function softmaxOf(logits) {
  const values = range(logits.shape[0]).map((i) => logits.at(i)),
    largest = Math.max(...values);
  const e = values.map((v) => Math.exp(v - largest)),
    total = e.reduce((a, b) => a + b, 0);
  return e.map((v) => v / total);
}

async function card(part) {
  const picture =
    part.name === "image"
      ? await imageCanvas(84)
      : part.tensor === undefined
        ? null
        : await energyCanvas(part.tensor, 84, t("energyLabel", { name: part.title }));
  return h(
    "li",
    { class: "card" },
    h("a", { href: part.href }, picture, h("b", {}, part.title)),
    h("span", { class: "shape" }, times(part.shape)),
    part.macs
      ? [
          h("span", { class: "cost" }, t("someMacs", { n: short(part.macs) })),
          h("span", { class: "cost" }, t("someParameters", { n: short(part.parameters) })),
        ]
      : null,
  );
}

// A map's shape in few letters: 64·8² for 64 × 8 × 8.
const sizeLabel = ([channels, height, width]) =>
  height && height === width ? `${channels}·${height}²` : [channels, height, width].filter(Boolean).join("·");

// Each activation as a box: its face is the grid of pixels, with a picture; its depth the number of channels. Below,
// bars of multiply-adds and parameters.  All to scale.
async function scaleDrawing(parts) {
  const face = 140,
    deep = 44,
    base = 215,
    rowHeight = 58,
    left = 78,
    isMap = (part) => part.shape.length > 1;
  const largest = (value) => Math.max(...parts.map(value)),
    pixels = largest((part) => (isMap(part) ? Math.max(part.shape[1], part.shape[2]) : 1)),
    channels = largest((part) => (isMap(part) ? part.shape[0] : 1));
  const rows = [
      ["macs", base + rowHeight + 14],
      ["parameters", base + 2 * (rowHeight + 14)],
    ],
    most = { macs: largest((part) => part.macs), parameters: largest((part) => part.parameters) };
  const names = base + 2 * (rowHeight + 14) + 24,
    drawing = svg("svg", { class: "scale", role: "group", "aria-label": t("scaleLabel") });
  for (const [key, y] of [["size", base], ...rows]) drawing.append(svg("text", { x: 0, y, class: "axis" }, t(key)));
  let x = left,
    groups = new Map();
  for (const part of parts) {
    const [high, side] = [1, 2].map((axis) => Math.max(2, isMap(part) ? (part.shape[axis] / pixels) * face : 2)),
      depth = isMap(part) ? Math.max(1, (part.shape[0] / channels) * deep) : 3,
      dx = depth * 0.75,
      dy = depth * 0.4;
    const width = Math.max(47, side + dx + 8),
      y = base - 18 - high,
      points = (list) => list.map((p) => p.join()).join(" ");
    const label = t("scalePart", {
      name: part.title,
      shape: times(part.shape),
      macs: number(part.macs),
      parameters: number(part.parameters),
    });
    const link = svg(
      "a",
      { href: part.href, class: part.group ?? "image" },
      svg("title", {}, label),
      svg("rect", { x: x - 3, y: 0, width: width - 2, height: names + 4, class: "hit" }),
      svg("polygon", {
        points: points([
          [x, y],
          [x + dx, y - dy],
          [x + side + dx, y - dy],
          [x + side + dx, y + high - dy],
          [x + side, y + high],
          [x, y + high],
        ]),
        class: "volume",
      }),
      svg("text", { x, y: base, class: "size" }, sizeLabel(part.shape)),
    );
    const picture =
      part.name === "image"
        ? await imageCanvas(100)
        : part.tensor === undefined || Math.min(high, side) < 4
          ? null
          : await energyCanvas(part.tensor, 100, "");
    if (picture) {
      Object.assign(picture.style, { width: "100%", height: "100%", border: "0" });
      picture.setAttribute("aria-hidden", "true");
      picture.removeAttribute("role");
      link.append(svg("foreignObject", { x, y, width: side, height: high }, picture));
    }
    for (const [key, bottom] of rows)
      if (part[key]) {
        const tall = (part[key] / most[key]) * (rowHeight - 20);
        link.append(
          svg("rect", { x, y: bottom - 12 - tall, width: 40, height: tall, class: "costbar" }),
          svg("text", { x, y: bottom, class: "size" }, short(part[key])),
        );
      }
    link.append(
      svg(
        "text",
        { x, y: names, class: "partname" },
        t(`short.${part.name.split(".").at(/\d$/.test(part.name) ? -2 : -1)}`, {
          n: Number(part.name.split(".").at(-1)) + 1,
        }),
      ),
    );
    drawing.append(link);
    if (part.group) groups.set(part.group, [groups.get(part.group)?.[0] ?? x, x + width - 10]);
    x += width;
  }
  for (const [group, [from, to]] of groups)
    drawing.append(
      svg("path", { d: `M${from} ${names + 8} v5 H${to} v-5`, class: "bracket" }),
      svg(
        "text",
        { x: (from + to) / 2, y: names + 28, class: "group" },
        group === "heads" ? t("part.heads") : titleOf(group),
      ),
    );
  drawing.setAttribute("viewBox", `0 0 ${x} ${names + 34}`);
  drawing.setAttribute("width", x);
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("scaleLabel") }, drawing);
}
