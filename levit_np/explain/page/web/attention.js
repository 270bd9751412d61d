"use strict";
// Attention: equation 1 for a chosen query, key and head, with its numbers; where the query looks; what it takes from there.

// What the stop of an attention (forward or backward) needs beside its own arrays: the bias table, the grids.
async function attentionOf(layer) {
  const gather = doc.forward.find((stop) => stop.op === "gather_bias" && stop.layer === `${layer}.bias`);
  const stop = doc.forward.find((s) => s.op === "attention" && s.layer === layer), stride = layersByName.get(layer)?.stride ?? 1;
  const arrays = await tensors.all({ ...stop.in, ...stop.out });
  const queries = arrays.q.shape[1], keys = arrays.k.shape[1], [rows, columns] = gridOf(keys), [queryRows, queryColumns] = gridOf(queries);
  const tableOf = gather ? await tensors.get(gather.in.table) : null;
  const placeOf = (q) => [Math.floor(q / queryColumns) * stride, (q % queryColumns) * stride];
  const bias = (head, q, k) => {
    if (!tableOf) return 0;
    const [qr, qc] = placeOf(q);
    return tableOf.at(head, Math.abs(qr - Math.floor(k / columns)) * columns + Math.abs(qc - (k % columns)));
  };
  const scale = stop.with.scale ?? arrays.q.shape[2] ** -0.5;
  const product = (head, q, k) => range(arrays.q.shape[2]).reduce((s, d) => s + arrays.q.at(head, q, d) * arrays.k.at(head, k, d), 0) * scale;
  return { ...arrays, stop, heads: arrays.q.shape[0], queries, keys, rows, columns, queryRows, queryColumns, stride, table: tableOf, bias, product, scale, placeOf };
}

SPECIAL.attention = async (stop, arrays, panels, choose) => attentionView(await attentionOf(stop.layer), stop.layer, choose);

async function attentionView(a, layer, choose) {
  const { choices } = address.read(), p = a.probabilities, chosenQueries = p.there(1);
  const middle = chosenQueries[Math.floor(chosenQueries.length / 2 + (gridOf(a.queries)[1] >> 1) * (p.places[1] ? 0 : 1)) % chosenQueries.length];
  const state = { head: Number(choices.get("head") ?? 0), query: Number(choices.get("query") ?? middle), key: Number(choices.get("key") ?? -1), d: 0 };
  state.head = Math.min(a.heads - 1, Math.max(0, state.head));
  if (!p.has([0, state.query, 0])) state.query = chosenQueries[0];
  const strongest = () => range(a.keys).reduce((best, k) => (p.at(state.head, state.query, k) > p.at(state.head, state.query, best) ? k : best), 0);
  if (!(state.key >= 0 && state.key < a.keys)) state.key = strongest();

  const picker = h("div", { class: "choosers" }), fields = {};
  const chooser = (label, key, most) => { fields[key] = h("input", { type: "number", min: 0, max: most, value: state[key], onchange: (event) => set(key, Number(event.target.value)) }); return h("label", {}, label, " ", fields[key]); };
  picker.append(chooser(t("axis.head"), "head", a.heads - 1), chooser(t("axis.query"), "query", a.queries - 1), chooser(t("axis.key"), "key", a.keys - 1));
  const body = h("div", {}), view = h("section", { class: "special attention" }, h("h2", {}, t("equation1")), h("p", { class: "formula big" }, "A[q, k] = Q[q]·K[k] / √D + B[|Δx|, |Δy|]", h("br"), "p[q, k] = e^A[q, k] / Σ_j e^A[q, j]"),
    h("p", { class: "note" }, t(a.stride > 1 ? "chooseQueryShrink" : "chooseQuery")), picker, body);

  const set = (key, value) => {
    if (key === "query" && !p.has([0, value, 0])) { fields.query.value = state.query; return; }
    state[key] = Math.min(Number(fields[key].max), Math.max(0, value));
    address.choose({ head: state.head, query: state.query, key: state.key });
    draw();
  };

  const draw = async () => {
    for (const key of ["head", "query", "key"]) fields[key].value = state[key];
    const { head, query, key } = state, [qr, qc] = a.placeOf(query), kr = Math.floor(key / a.columns), kc = key % a.columns;
    const row = range(a.keys).map((k) => ({ product: a.product(head, query, k), bias: a.bias(head, query, k) }));
    const scores = row.map((x) => x.product + x.bias), top = Math.max(...scores), e = scores.map((s) => Math.exp(s - top)), total = e.reduce((x, y) => x + y, 0);
    const at = (values) => (r, c) => values[r * a.columns + c];
    const largestP = Math.max(...range(a.keys).map((k) => p.at(head, query, k)));
    const figure = async (caption, canvas, chooseKey, isQuery) => {
      const rows = isQuery ? a.queryRows : a.rows, columns = isQuery ? a.queryColumns : a.columns;
      const frame = (r, c, cls, step = 1) => h("span", { class: `frame ${cls}`, "aria-hidden": "true", style: { top: `${100 * r / a.rows}%`, left: `${100 * c / a.columns}%`, width: `${100 * step / a.columns}%`, height: `${100 * step / a.rows}%` } });
      const box = h("span", { class: "overlay", onclick: (event) => { const b = box.getBoundingClientRect(); const r = Math.min(rows - 1, Math.floor((event.clientY - b.top) / b.height * rows)), c = Math.min(columns - 1, Math.floor((event.clientX - b.left) / b.width * columns)); set(chooseKey, r * columns + c); } },
        canvas, frame(qr, qc, "queryframe"), isQuery ? null : frame(kr, kc, "keyframe"));
      return h("figure", {}, h("figcaption", {}, caption), box);
    };
    const map = (values, label, options = {}) => mapCanvas(a.rows, a.columns, at(values), { size: 108, label, ...options });
    const sign = (text) => h("span", { class: "sign", "aria-hidden": "true" }, text), probabilities = range(a.keys).map((k) => p.at(head, query, k));
    const maps = h("div", { class: "row" },
      await figure(t("clickQuery"), await imageCanvas(108), "query", true), sign("→"),
      await figure("Q·K / √D", map(row.map((x) => x.product), "Q·K / √D"), "key"), sign("+"),
      await figure(t("biasB"), map(row.map((x) => x.bias), t("biasB"), { signed: true }), "key"), sign("="),
      await figure(t("scoresA"), map(scores, t("scoresA"), { signed: true }), "key"), sign("→"),
      await figure("softmax", map(probabilities, "softmax"), "key"), sign("→"),
      await figure(t("onImage"), await overlay(a.rows, a.columns, at(probabilities), { size: 108, largest: largestP, label: t("onImage") }), "key"));
    const d = range(a.q.shape[2]), products = d.map((i) => a.q.at(head, query, i) * a.k.at(head, key, i)), dot = products.reduce((x, y) => x + y, 0);
    const numbersOf = h("div", {}, h("h3", {}, t("pairNumbers", { query, key, qr, qc, kr, kc })),
      h("p", { class: "computed" }, `Q·K = ${digits(dot)};  Q·K / √${a.q.shape[2]} = ${digits(row[key].product)}`),
      h("p", { class: "computed" }, `B[${Math.abs(qr - kr)}, ${Math.abs(qc - kc)}] = ${digits(row[key].bias)};  A = ${digits(row[key].product)} + ${digits(row[key].bias)} = ${digits(scores[key])}`),
      h("p", { class: "computed" }, `p = e^${digits(scores[key])} / Σ_j e^A[j] = ${(e[key] / total).toFixed(4)};  `, t("networkSays"), " ", h("b", { "data-tensor": a.stop.out.probabilities, "data-index": `${head},${query},${key}` }, p.text(head, query, key))),
      h("details", {}, h("summary", {}, t("allProducts", { n: d.length })), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("terms") }, h("table", { class: "numbers small" },
        h("tbody", {}, [["d", d], ["Q", d.map((i) => a.q.text(head, query, i))], ["K", d.map((i) => a.k.text(head, key, i))], ["Q·K", products.map(digits)]].map(([name, cells]) => h("tr", {}, h("th", { scope: "row" }, name), cells.map((cell) => h("td", {}, String(cell))))))))));
    const order = range(a.keys).sort((x, y) => p.at(head, query, y) - p.at(head, query, x)).slice(0, 6), channels = a.v.there(2).slice(0, 5);
    const weighted = h("div", {}, h("h3", {}, t("weightedV")), h("p", { class: "note" }, t("weightedNote")),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("weightedV") }, h("table", { class: "terms" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("axis.key")), h("th", { scope: "col" }, "A"), h("th", { scope: "col" }, "p"), h("td"), channels.map((j) => h("th", { scope: "col" }, `v[…, ${j}]`)))),
        h("tbody", {}, order.map((k) => h("tr", { class: k === key ? "chosen" : "" }, h("th", { scope: "row" }, h("button", { type: "button", onclick: () => set("key", k) }, `${k} (${Math.floor(k / a.columns)}, ${k % a.columns})`)), h("td", {}, digits(scores[k])), h("td", {}, p.text(head, query, k)), h("td", { class: "bars" }, bar(p.at(head, query, k) / largestP)), channels.map((j) => h("td", {}, a.v.text(head, k, j))))),
          h("tr", { class: "others" }, h("th", { scope: "row" }, t("otherTerms", { n: a.keys - order.length })), h("td"), h("td", {}, digits(1 - order.reduce((s, k) => s + p.at(head, query, k), 0))), h("td"), channels.map(() => h("td")))),
        h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "y = Σ p·v"), h("td"), h("td"), h("td"), channels.map((j) => h("td", {}, h("b", {}, a.y.text(head, query, j)))))))));
    const heads = h("div", { class: "row" }, await Promise.all(range(a.heads).map(async (n) => {
      const values = range(a.keys).map((k) => p.at(n, query, k));
      return h("button", { type: "button", class: n === head ? "headbutton chosen" : "headbutton", "aria-pressed": n === head ? "true" : "false", onclick: () => set("head", n) },
        await overlay(a.rows, a.columns, at(values), { size: 84, largest: Math.max(...values), label: t("headN", { n }) }), t("headN", { n }));
    })));
    body.replaceChildren(h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("equation1") }, maps), numbersOf, h("h3", {}, t("allHeads")), heads, weighted, ...biasMaps(a, head), await gradientMaps(layer, a, state));
  };
  await draw();
  return view;
}

// The paper's Figure 6: each head's bias by |Δy| (down) and |Δx| (to the right).
function biasMaps(a, head) {
  if (!a.table) return [];
  const largest = Math.max(...a.table.extent.map(Math.abs));
  return [h("h3", {}, t("biasMaps")), h("p", { class: "note" }, t("biasNote")), h("div", { class: "row" }, range(a.heads).map((n) => h("figure", { class: n === head ? "chosen" : "" },
    mapCanvas(a.rows, a.columns, (r, c) => a.table.at(n, r * a.columns + c), { size: 84, largest, signed: true, label: t("biasOfHead", { n }) }), h("figcaption", {}, t("headN", { n }))))), legend(-largest, largest)];
}

// The gradient of two classes' logits to the attention weights of the chosen query and head.
async function gradientMaps(layer, a, { head, query }) {
  const places = doc.maps[layer];
  if (!places) return "";
  const maps = await Promise.all(places.map((place) => tensors.get(place)));
  const pictures = maps.map((map, i) => {
    const values = range(a.keys).map((k) => map.at(head, query, k));
    return h("figure", {}, h("figcaption", {}, doc.labels[doc.why[i]]), values[0] === undefined ? t("notHere") : mapCanvas(a.rows, a.columns, (r, c) => values[r * a.columns + c], { size: 108, signed: true, label: t("gradientOf", { name: doc.labels[doc.why[i]] }) }));
  });
  return h("div", {}, h("h3", {}, t("gradientToMap")), h("p", { class: "note" }, t("gradientToMapNote")), h("div", { class: "row" }, pictures));
}

SPECIAL.attention_backward = async (stop, arrays) => {
  const a = await attentionOf(stop.layer), { choices } = address.read(), state = { head: Number(choices.get("head") ?? 0), query: Number(choices.get("query") ?? a.probabilities.there(1)[0]) };
  const d = arrays.dbias, body = h("div", { class: "row" }), fields = {};
  const draw = () => {
    const { head, query } = state, p = range(a.keys).map((k) => a.probabilities.at(head, query, k));
    const figure = (caption, values, signed) => h("figure", {}, h("figcaption", {}, caption), values[0] === undefined ? t("notHere") : mapCanvas(a.rows, a.columns, (r, c) => values[r * a.columns + c], { size: 150, signed, label: caption }));
    body.replaceChildren(figure("p", p, false), figure("ds = p · (dp − Σ dp p)", d ? range(a.keys).map((k) => (d.has([head, query, k]) ? d.at(head, query, k) : undefined)) : [undefined], true));
  };
  const chooser = (key, most) => { fields[key] = h("input", { type: "number", min: 0, max: most, value: state[key], onchange: () => { state[key] = Math.min(most, Math.max(0, Number(fields[key].value))); draw(); } }); return h("label", {}, t(`axis.${key}`), " ", fields[key]); };
  draw();
  return h("section", { class: "special" }, h("h2", {}, t("attentionBack")), h("p", {}, t("attentionBackNote")), h("div", { class: "choosers" }, chooser("head", a.heads - 1), chooser("query", a.queries - 1)), body);
};

// Both stops of the bias: which number of a head's table each pair of pixels uses.
SPECIAL.bias_index = SPECIAL.gather_bias = async (stop) => {
  const layer = stop.layer.replace(/\.bias$/, ""), a = await attentionOf(layer), state = { head: 0, query: middle("query", a.queries) }, body = h("div", {}), fields = {};
  const draw = () => {
    const [qr, qc] = a.placeOf(state.query), offset = (k) => Math.abs(qr - Math.floor(k / a.columns)) * a.columns + Math.abs(qc - (k % a.columns));
    const cells = (value) => table(range(a.rows).map((r) => range(a.columns).map((c) => ({ ...value(r * a.columns + c), cls: r === qr && c === qc ? "chosen" : "" }))), t("gridLabel", { name: "B" }));
    const largest = a.table ? Math.max(...a.table.extent.map(Math.abs)) : 1;
    const numbers = stop.op === "bias_index" ? cells((k) => ({ text: String(offset(k)), value: -offset(k), largest: a.keys })) : cells((k) => ({ text: a.table.text(state.head, offset(k)), value: a.bias(state.head, state.query, k), largest }));
    body.replaceChildren(h("p", {}, t("biasOfQuery", { query: state.query, row: qr, column: qc })), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("biasB") }, numbers), ...(stop.op === "gather_bias" ? biasMaps(a, state.head) : []));
  };
  const chooser = (key, most) => { fields[key] = h("input", { type: "number", min: 0, max: most, value: state[key], onchange: () => { state[key] = Math.min(most, Math.max(0, Number(fields[key].value))); draw(); } }); return h("label", {}, t(`axis.${key}`), " ", fields[key]); };
  draw();
  return h("section", { class: "special" }, h("h2", {}, t("biasB")), h("div", { class: "choosers" }, chooser("head", a.heads - 1), chooser("query", a.queries - 1)), body);
};
