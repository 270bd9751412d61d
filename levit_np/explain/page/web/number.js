"use strict";
// Where one number comes from: the box below the results of a stop.

function madeOf(stop, arrays, name, index) {
  const target = arrays[name],
    box = h("section", { class: "made", "aria-label": t("madeOf") });
  const title = h(
    "h3",
    {},
    t("thisNumber"),
    " ",
    h("code", {}, `${name}[${index.join(", ")}]`),
    " = ",
    h("b", { class: "value", "data-made": index.join() }, target.text(...index)),
  );
  box.append(title);
  const whole = Object.keys(stop.in).every((given) => arrays[given]); // a large page leaves out some of the second loss
  const made = whole ? MAKES[stop.op]?.(arrays, name, index, stop) : { lines: [], terms: [] };
  if (!made) return box;
  if (made.formula) box.append(h("p", { class: "formula" }, made.formula));
  if (made.lines?.length)
    box.append(
      ...made.lines.map((line) => h("p", { class: "computed" }, line)),
      h("p", { class: "note" }, t("rounded")),
    );
  if (made.from) {
    const [source, at] = made.from,
      there = arrays[source]?.has(at);
    box.append(
      h(
        "p",
        {},
        there
          ? t("moved", { from: `${source}[${at.join(", ")}]`, value: arrays[source].text(...at) })
          : t("movedAway", { from: `${source}[${at.join(", ")}]` }),
      ),
    );
  }
  if (made.terms) box.append(sum(made, target.at(...index), target.text(...index)));
  return box;
}

const TERMS = 9; // of the largest

function sum(made, value, text) {
  const known = made.terms
    .filter(([, a, b]) => a !== undefined && b !== undefined)
    .map(([what, a, b]) => ({ what, a, b, product: a * b }));
  if (!known.length) return h("p", { class: "note" }, t("noTerms"));
  const total = known.reduce((s, term) => s + term.product, 0),
    rest = made.all - known.length;
  const largest = Math.max(...known.map((term) => Math.abs(term.product))),
    order = [...known].sort((x, y) => Math.abs(y.product) - Math.abs(x.product));
  const first = order.slice(0, TERMS),
    others = order.slice(TERMS),
    add = (terms) => terms.reduce((s, term) => s + term.product, 0);
  const row = (label, a, b, product, cls = "") =>
    h(
      "tr",
      { class: cls },
      h("th", { scope: "row" }, label),
      h("td", {}, a),
      h("td", {}, b),
      h("td", {}, digits(product)),
      h(
        "td",
        { class: "bars" },
        h("span", {
          class: product < 0 ? "minus" : "plus",
          style: { width: `${Math.min(100, (100 * Math.abs(product)) / (largest || 1))}%` },
        }),
      ),
    );
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": t("terms") },
    h(
      "table",
      { class: "terms" },
      h("caption", {}, t("largestTerms", { n: first.length, all: number(made.all) })),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          [t("term"), "a", "b", "a · b"].map((x) => h("th", { scope: "col" }, x)),
          h("td"),
        ),
      ),
      h(
        "tbody",
        {},
        first.map((term) => row(term.what, digits(term.a), digits(term.b), term.product)),
        others.length ? row(t("otherTerms", { n: number(others.length) }), "", "", add(others), "others") : null,
        rest > 0 ? row(t("termsElsewhere", { n: number(rest) }), "", "", value - total, "others") : null,
      ),
      h(
        "tfoot",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "row" }, t(rest > 0 ? "network" : "sum")),
          h("td"),
          h("td"),
          h("td", {}, h("b", {}, rest > 0 ? text : digits(total))),
          h("td"),
        ),
        rest > 0
          ? null
          : h(
              "tr",
              {},
              h("th", { scope: "row" }, t("network")),
              h("td"),
              h("td"),
              h("td", {}, h("b", {}, text)),
              h("td"),
            ),
      ),
    ),
  );
}
