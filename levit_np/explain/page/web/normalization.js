"use strict";
// BN in three forms: in training with the batch's statistics, in evaluation with the running ones, and folded.

SPECIAL.normalize = async (stop, arrays, panels) => {
  const body = h("div", {}),
    view = h("section", { class: "special" }, h("h2", {}, t("bnTitle")), h("p", { class: "note" }, t("bnNote")), body);
  // The weights of the same layer: before the BN or, in a head, after it.
  const [before, behind] = [-1, 1].map((step) => doc.forward[doc.forward.indexOf(stop) + step]);
  const own = (other) => other && `${other.layer}.bn` === stop.layer && "w" in other.in;
  const weight = own(before) ? await tensors.get(before.in.w) : own(behind) ? await tensors.get(behind.in.w) : null;
  const places = (c) => {
    const axis = own(before) ? 1 : 0;
    const rest = weight.layout === "filters" ? [0, 0] : [];
    const others = weight.there(axis).slice(0, 3);
    return others.map((k) => (axis ? [c, k, ...rest] : [k, c])).filter((place) => weight.has(place));
  };
  const training = stop.training
    ? await tensors.all({ mean: stop.training.mean, variance: stop.training.variance })
    : null;
  const draw = (index) => {
    const c = channelOf(arrays.x, index),
      x = arrays.x.at(...index),
      eps = stop.with.eps;
    const [g, b, m, v] = ["gamma", "beta", "mean", "variance"].map((k) => arrays[k].at(c)),
      scale = g / Math.sqrt(v + eps),
      shift = b - m * scale;
    if ([x, g].includes(undefined)) return body.replaceChildren(h("p", { class: "note" }, t("noTerms")));
    const way = (title, mean, variance, y, note) =>
      h(
        "div",
        { class: "way" },
        h("h3", {}, title),
        h("p", { class: "note" }, note),
        h(
          "dl",
          {},
          [
            ["μ", mean],
            ["σ²", variance],
          ].flatMap(([k, value]) => [h("dt", {}, k), h("dd", {}, digits(value))]),
        ),
        h(
          "p",
          { class: "computed" },
          `${digits(g)} · (${digits(x)} − ${inner(digits(mean))}) / √(${digits(variance)} + ε) + ${inner(digits(b))} = `,
          h("b", {}, digits(y)),
        ),
      );
    const tm = training?.mean.at(c),
      tv = training?.variance.at(c);
    const folded = h(
      "div",
      { class: "way" },
      h("h3", {}, t("bnFolded")),
      h("p", { class: "note" }, t(own(before) ? "bnFoldedNote" : "bnFoldedBehind")),
      h("p", { class: "computed" }, `scale = γ / √(σ² + ε) = ${digits(scale)}`),
      h("p", { class: "computed" }, `shift = β − μ · scale = ${digits(shift)}`),
      weight && places(c).length
        ? h(
            "p",
            { class: "computed" },
            `w′[${own(before) ? `${c}, …` : `…, ${c}`}] = scale · w = ${places(c)
              .map((place) => {
                const w = weight.at(...place);
                return `${digits(scale)} · ${inner(digits(w))} = ${digits(scale * w)}`;
              })
              .join(",  ")}, …`,
          )
        : null,
      h(
        "p",
        { class: "computed" },
        `y = scale · ${inner(digits(x))} + shift = `,
        h("b", {}, digits(scale * x + shift)),
      ),
    );
    body.replaceChildren(
      h("p", {}, t("bnChannel", { c, x: digits(x), g: digits(g), b: digits(b) })),
      h(
        "div",
        { class: "ways" },
        training
          ? way(
              t("bnTraining"),
              tm,
              tv,
              (g * (x - tm)) / Math.sqrt(tv + eps) + b,
              t("bnTrainingNote", { n: number(stop.training.count) }),
            )
          : h("div", { class: "way" }, h("h3", {}, t("bnTraining")), h("p", {}, t("bnOneValue"))),
        way(t("bnEvaluation"), m, v, scale * (x - m) + b, t("bnEvaluationNote")),
        folded,
      ),
    );
  };
  SPECIAL.normalize.onselect = (name, index) => name === "y" && draw(index);
  return view;
};

// The curve of an activation, with the chosen number on it.
SPECIAL.hardswish = async (stop, arrays) =>
  curve(
    stop,
    arrays,
    (x) => (x * Math.min(6, Math.max(0, x + 3))) / 6,
    (x) => slope(x),
  );
SPECIAL.silu = async (stop, arrays) => curve(stop, arrays, (x) => x / (1 + Math.exp(-x)), null);

async function curve(stop, arrays, f) {
  const width = 260,
    height = 160,
    X = (x) => 20 + ((x + 6) / 12) * (width - 40),
    Y = (y) => height - 30 - (y / 6) * (height - 50);
  const dot = svg("circle", { r: 5, class: "dot" }),
    label = svg("text", { x: 24, y: 18, class: "axis" });
  const path = range(121)
    .map((i) => {
      const x = -6 + i / 10;
      return `${i ? "L" : "M"}${X(x).toFixed(1)} ${Y(f(x)).toFixed(1)}`;
    })
    .join(" ");
  SPECIAL[stop.op].onselect = (name, index) => {
    const x = arrays.x.at(...index),
      shown = Math.max(-6, Math.min(6, x));
    dot.setAttribute("cx", X(shown));
    dot.setAttribute("cy", Y(f(shown)));
    label.textContent = `x = ${digits(x)}, y = ${arrays.y.text(...index)}`;
  };
  return h(
    "section",
    { class: "special" },
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": t("curveLabel") },
      svg("line", { x1: 10, x2: width - 10, y1: Y(0), y2: Y(0), class: "axisline" }),
      svg("line", { x1: X(0), x2: X(0), y1: 10, y2: height - 10, class: "axisline" }),
      svg("path", { d: path, class: "curve" }),
      dot,
      label,
    ),
  );
}
