"use strict";
// The attention bias: a learned number for each offset |Δy|, |Δx|, the same for every pair of pixels with that offset.

// The paper's Figure 6: each head's table, |Δy| down and |Δx| to the right.
function biasMaps(a, head) {
  if (!a.table) return [];
  const largest = Math.max(...a.table.extent.map(Math.abs));
  const figure = (n) => {
    const value = (r, c) => a.table.at(n, r * a.columns + c);
    const options = { size: 84, largest, signed: true, label: t("biasOfHead", { n }) };
    const picture = mapCanvas(a.rows, a.columns, value, options);
    return h("figure", { class: n === head ? "chosen" : "" }, picture, h("figcaption", {}, t("headN", { n })));
  };
  return [
    h("h3", {}, t("biasMaps")),
    h("p", { class: "note" }, t("biasNote")),
    h("div", { class: "row" }, range(a.heads).map(figure)),
    legend(-largest, largest),
  ];
}

// Both stops of the bias: the index in the table for each key, and the number found there.
SPECIAL.bias_index = SPECIAL.gather_bias = async (stop) => {
  const a = await attentionOf(stop.layer.replace(/\.bias$/, ""));
  const state = { head: 0, query: middle("query", a.queries) };
  const body = h("div", {});
  const largest = Math.max(...a.table.extent.map(Math.abs));
  const cell = (k) => {
    const offset = a.offsetOf(state.query, k);
    if (stop.op === "bias_index") return { text: String(offset), value: -offset, largest: a.keys };
    return { text: a.table.text(state.head, offset), value: a.table.at(state.head, offset), largest };
  };
  const draw = () => {
    const [row, column] = a.placeOf(state.query);
    const cells = range(a.rows).map((r) =>
      range(a.columns).map((c) => ({ ...cell(r * a.columns + c), cls: r === row && c === column ? "chosen" : "" })),
    );
    body.replaceChildren(
      h("p", {}, t("biasOfQuery", { query: state.query, row, column })),
      scrolling(t("biasB"), table(cells, t("gridLabel", { name: "B" }))),
      ...(stop.op === "gather_bias" ? biasMaps(a, state.head) : []),
    );
  };
  const fields = attentionFields(a, state, stop.op === "gather_bias" ? ["head", "query"] : ["query"], draw);
  draw();
  return h("section", { class: "special" }, h("h2", {}, t("biasB")), fields.element, body);
};
