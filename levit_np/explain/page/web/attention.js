"use strict";
// Attention: equation 1 with its numbers for a chosen query, key and head; where the query looks; the values it takes.

// An attention layer: its arrays, its grids, and equation 1 for any pair.
async function attentionOf(layer) {
  const stop = doc.forward.find((s) => s.op === "attention" && s.layer === layer);
  const gather = doc.forward.find((s) => s.op === "gather_bias" && s.layer === `${layer}.bias`);
  const arrays = await tensors.all({ ...stop.in, ...stop.out });
  const table = gather ? await tensors.get(gather.in.table) : null;
  const [heads, queries, size] = arrays.q.shape;
  const keys = arrays.k.shape[1];
  const [rows, columns, before] = gridOf(keys); // before the pixels' keys stands that of a class token, if any
  const [queryRows, queryColumns] = gridOf(queries);
  const stride = layersByName.get(layer)?.stride ?? 1;
  // (row, column) of a query among the keys' pixels, of which a shrinking attention uses every second one; null for a
  // class token.
  const place = (n, width, step) =>
    n < before ? null : [Math.floor((n - before) / width) * step, ((n - before) % width) * step];
  const placeOf = (q) => place(q, queryColumns, stride);
  const keyPlaceOf = (k) => place(k, columns, 1);
  const keyAt = (row, column) => before + row * columns + column;
  const offsetOf = (q, k) => {
    const [[qr, qc], [kr, kc]] = [placeOf(q), keyPlaceOf(k)];
    return Math.abs(qr - kr) * columns + Math.abs(qc - kc);
  };
  const bias = (head, q, k) => (table ? table.at(head, offsetOf(q, k)) : 0);
  const dot = (head, q, k) => add(range(size).map((d) => arrays.q.at(head, q, d) * arrays.k.at(head, k, d)));
  const product = (head, q, k) => dot(head, q, k) * size ** -0.5;
  const grid = { heads, queries, keys, size, rows, columns, before, queryRows, queryColumns };
  return { ...arrays, ...grid, layer, stop, table, placeOf, keyPlaceOf, keyAt, offsetOf, bias, dot, product };
}

const add = (values) => values.reduce((a, b) => a + b, 0);

// Equation 1 for one query and head, all keys at once.
function rowOf(a, { head, query }) {
  const keys = range(a.keys);
  const products = keys.map((k) => a.product(head, query, k));
  const biases = keys.map((k) => a.bias(head, query, k));
  const scores = keys.map((k) => products[k] + biases[k]);
  const most = Math.max(...scores);
  const total = add(scores.map((score) => Math.exp(score - most)));
  const shares = scores.map((score) => Math.exp(score - most) / total);
  const probabilities = keys.map((k) => a.probabilities.at(head, query, k)); // the network's own
  return { products, biases, scores, shares, probabilities, largest: Math.max(...probabilities) };
}

// Input fields for head, query and key.
function attentionFields(a, state, names, changed) {
  const most = { head: a.heads - 1, query: a.queries - 1, key: a.keys - 1 };
  const fields = {};
  const set = (name, value) => {
    const wanted = wholeNumber(value, most[name]);
    if (name !== "query" || a.probabilities.has([0, wanted, 0])) state[name] = wanted;
    for (const field of names) fields[field].value = state[field];
    changed();
  };
  const element = h(
    "div",
    { class: "choosers" },
    names.map((name) => {
      const change = (event) => set(name, event.target.value);
      fields[name] = h("input", { type: "number", min: 0, max: most[name], value: state[name], onchange: change });
      return h("label", {}, t(`axis.${name}`), " ", fields[name]);
    }),
  );
  return { element, set };
}

SPECIAL.attention = async (stop) => {
  const a = await attentionOf(stop.layer);
  const { choices } = address.read();
  const [, query] = nearest(a.probabilities, [0, choices.has("query") ? Number(choices.get("query")) : undefined]);
  const state = { head: wholeNumber(choices.get("head"), a.heads - 1), query, key: 0 };
  const { probabilities } = rowOf(a, state);
  const strongest = probabilities.indexOf(Math.max(...probabilities));
  state.key = wholeNumber(choices.get("key") ?? strongest, a.keys - 1);
  const body = h("div", {});
  const fields = attentionFields(a, state, ["head", "query", "key"], () => {
    address.choose(state);
    draw();
  });
  const draw = async () => {
    const row = rowOf(a, state);
    const pressed = [...body.querySelectorAll("button")].indexOf(document.activeElement);
    body.replaceChildren(
      scrolling(t("equation1"), await equationMaps(a, state, row, fields.set)),
      pairNumbers(a, state, row),
      h("h3", {}, t("allHeads")),
      await headButtons(a, state, fields.set),
      weightedValues(a, state, row, fields.set),
      ...biasMaps(a, state.head),
      await gradientMaps(a, state),
    );
    body.querySelectorAll("button")[pressed]?.focus(); // a keyboard goes on from there
  };
  await draw();
  return h(
    "section",
    { class: "special attention" },
    h("h2", {}, t("equation1")),
    h(
      "p",
      { class: "formula big" },
      `A[q, k] = Q[q]·K[k] / √D${a.table ? " + B[|Δx|, |Δy|]" : ""}`,
      h("br"),
      "p[q, k] = e^A[q, k] / Σ_j e^A[q, j]",
    ),
    h("p", { class: "note" }, t(a.queries < a.keys ? "chooseQueryShrink" : "chooseQuery")),
    a.before ? h("p", { class: "note" }, t("tokenHasNoPixel")) : null,
    fields.element,
    body,
  );
};

const scrolling = (label, ...inside) =>
  h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, inside);

// The terms of equation 1 as maps over the keys, from the query's pixel to the attention over the image.
async function equationMaps(a, state, row, set) {
  const at = (values) => (r, c) => values[a.keyAt(r, c)];
  const map = (values, label, options) => mapCanvas(a.rows, a.columns, at(values), { size: 108, label, ...options });
  const onImage = { size: 108, largest: row.largest, label: t("onImage") };
  const sign = (text) => h("span", { class: "sign", "aria-hidden": "true" }, text);
  const figure = (caption, canvas, chosen = "key") => attentionFigure(a, state, caption, canvas, chosen, set);
  return h(
    "div",
    { class: "row" },
    figure(t("clickQuery"), await imageCanvas(108), "query"),
    sign("→"),
    figure("Q·K / √D", map(row.products, "Q·K / √D")),
    a.table ? [sign("+"), figure(t("biasB"), map(row.biases, t("biasB"), { signed: true }))] : null,
    sign("="),
    figure(t("scoresA"), map(row.scores, t("scoresA"), { signed: true })),
    sign("→"),
    figure("softmax", map(row.probabilities, "softmax")),
    sign("→"),
    figure(t("onImage"), await overlay(a.rows, a.columns, at(row.probabilities), onImage)),
  );
}

// A picture that frames the query and the key, either of which a click chooses.
function attentionFigure(a, state, caption, canvas, chosen, set) {
  const [rows, columns] = chosen === "query" ? [a.queryRows, a.queryColumns] : [a.rows, a.columns];
  const frame = (place, kind) =>
    place &&
    h("span", {
      class: `frame ${kind}`,
      "aria-hidden": "true",
      style: {
        top: `${(100 * place[0]) / a.rows}%`,
        left: `${(100 * place[1]) / a.columns}%`,
        width: `${100 / a.columns}%`,
        height: `${100 / a.rows}%`,
      },
    });
  const click = (event) => {
    const area = box.getBoundingClientRect();
    const r = Math.min(rows - 1, Math.floor(((event.clientY - area.top) / area.height) * rows));
    const c = Math.min(columns - 1, Math.floor(((event.clientX - area.left) / area.width) * columns));
    set(chosen, a.before + r * columns + c);
  };
  const key = frame(a.keyPlaceOf(state.key), "keyframe");
  const query = frame(a.placeOf(state.query), "queryframe");
  const box = h("span", { class: "overlay", onclick: click }, canvas, query, chosen === "query" ? null : key);
  return h("figure", {}, h("figcaption", {}, caption), box);
}

// Equation 1 for one pair, term by term.
function pairNumbers(a, { head, query, key }, row) {
  const [[qr, qc], [kr, kc]] = [a.placeOf(query) ?? [], a.keyPlaceOf(key) ?? []];
  const title = qr === undefined || kr === undefined ? "pairWithToken" : "pairNumbers";
  const line = (...text) => h("p", { class: "computed" }, ...text);
  const score = digits(row.scores[key]);
  const own = { "data-tensor": a.stop.out.probabilities, "data-index": `${head},${query},${key}` };
  const each = range(a.size);
  const cells = [
    ["d", each],
    ["Q", each.map((d) => a.q.text(head, query, d))],
    ["K", each.map((d) => a.k.text(head, key, d))],
    ["Q·K", each.map((d) => digits(a.q.at(head, query, d) * a.k.at(head, key, d)))],
  ];
  const rows = cells.map(([name, values]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      values.map((value) => h("td", {}, String(value))),
    ),
  );
  return h(
    "div",
    {},
    h("h3", {}, t(title, { query, key, qr, qc, kr, kc })),
    line(`Q·K = ${digits(a.dot(head, query, key))};  Q·K / √${a.size} = ${digits(row.products[key])}`),
    a.table
      ? line(
          `B[${Math.abs(qc - kc)}, ${Math.abs(qr - kr)}] = ${digits(row.biases[key])};  `,
          `A = ${digits(row.products[key])} + ${inner(digits(row.biases[key]))} = ${score}`,
        )
      : null,
    line(
      `p = e^${score} / Σ_j e^A[j] = ${row.shares[key].toFixed(4)};  ${t("networkSays")} `,
      h("b", own, a.probabilities.text(head, query, key)),
    ),
    h(
      "details",
      {},
      h("summary", {}, t("allProducts", { n: a.size })),
      scrolling(t("terms"), h("table", { class: "numbers small" }, h("tbody", {}, rows))),
    ),
  );
}

// The same query in every head, as one button per head.
async function headButtons(a, { head, query }, set) {
  const button = async (n) => {
    const { probabilities, largest } = rowOf(a, { head: n, query });
    const value = (r, c) => probabilities[a.keyAt(r, c)];
    const picture = await overlay(a.rows, a.columns, value, { size: 84, largest, label: t("headN", { n }) });
    const chosen = n === head;
    const options = {
      type: "button",
      class: chosen ? "headbutton chosen" : "headbutton",
      "aria-pressed": String(chosen),
    };
    return h("button", { ...options, onclick: () => set("head", n) }, picture, t("headN", { n }));
  };
  return h("div", { class: "row" }, await Promise.all(range(a.heads).map(button)));
}

// y = Σ p v: the keys with the largest weights, and the weighted values taken from them.
function weightedValues(a, { head, query, key }, row, set) {
  const order = range(a.keys).sort((x, y) => row.probabilities[y] - row.probabilities[x]);
  const first = order.slice(0, 6);
  const channels = a.v.there(2).slice(0, 5);
  const titles = [t("axis.key"), "A", "p"].map((text) => h("th", { scope: "col" }, text));
  const choose = (k) =>
    h(
      "button",
      { type: "button", onclick: () => set("key", k) },
      `${k} (${a.keyPlaceOf(k)?.join(", ") ?? t("short.token")})`,
    );
  const keyRow = (k) =>
    h(
      "tr",
      { class: k === key ? "chosen" : "" },
      h("th", { scope: "row" }, choose(k)),
      h("td", {}, digits(row.scores[k])),
      h("td", {}, a.probabilities.text(head, query, k)),
      h("td", { class: "bars" }, bar(row.probabilities[k] / row.largest)),
      channels.map((j) => h("td", {}, a.v.text(head, k, j))),
    );
  const rest = digits(1 - add(first.map((k) => row.probabilities[k])));
  const others = h(
    "tr",
    { class: "others" },
    h("th", { scope: "row" }, t("otherTerms", { n: a.keys - first.length })),
    h("td"),
    h("td", {}, rest),
    h("td"),
    channels.map(() => h("td")),
  );
  const sums = channels.map((j) => h("td", {}, h("b", {}, a.y.text(head, query, j))));
  const table = h(
    "table",
    { class: "terms" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        titles,
        h("td"),
        channels.map((j) => h("th", { scope: "col" }, `v[…, ${j}]`)),
      ),
    ),
    h("tbody", {}, first.map(keyRow), a.keys > first.length ? others : null),
    h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "y = Σ p·v"), h("td"), h("td"), h("td"), sums)),
  );
  const note = h("p", { class: "note" }, t("weightedNote"));
  return h("div", {}, h("h3", {}, t("weightedV")), note, scrolling(t("weightedV"), table));
}

// The gradients of two classes' logits with respect to the attention weights of the chosen query and head.
async function gradientMaps(a, { head, query }) {
  const maps = await Promise.all((doc.maps[a.layer] ?? []).map((place) => tensors.get(place)));
  const pictures = maps.map((map, i) => {
    const name = doc.labels[doc.why[i]];
    const value = (r, c) => map.at(head, query, a.keyAt(r, c));
    const options = { size: 132, signed: true, label: t("gradientOf", { name }) };
    const here = map.has([head, query, 0]);
    return h(
      "figure",
      {},
      h("figcaption", {}, name),
      here ? mapCanvas(a.rows, a.columns, value, options) : t("notHere"),
    );
  });
  const note = h("p", { class: "note" }, t("gradientToMapNote"));
  return h("div", {}, h("h3", {}, t("gradientToMap")), note, h("div", { class: "row" }, pictures));
}

SPECIAL.attention_backward = async (stop, arrays) => {
  const a = await attentionOf(stop.layer);
  const state = { head: 0, query: nearest(a.probabilities)[1] };
  const body = h("div", { class: "row" });
  const draw = () => {
    const figure = (caption, tensor, signed) => {
      const here = tensor?.has([state.head, state.query, 0]);
      const value = (r, c) => tensor.at(state.head, state.query, a.keyAt(r, c));
      const picture = here && mapCanvas(a.rows, a.columns, value, { size: 150, signed, label: caption });
      return h("figure", {}, h("figcaption", {}, caption), picture || t("notHere"));
    };
    body.replaceChildren(figure("p", a.probabilities, false), figure("ds = p · (dp − Σ dp p)", arrays.dbias, true));
  };
  const fields = attentionFields(a, state, ["head", "query"], draw);
  draw();
  const title = h("h2", {}, t("attentionBack"));
  return h("section", { class: "special" }, title, h("p", {}, t("attentionBackNote")), fields.element, body);
};
