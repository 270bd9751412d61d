"use strict";
// Where one number comes from: for each operation, the terms that make a cell of its result.
//
// MAKES[op](a, name, index, stop): `a` holds the operation's arrays by name, `name[index]` is the cell. What it returns is
// shown by `madeOf`: `formula` with this cell's indices; then either `terms` [what, factor, factor] that are summed, or
// `lines` of text; `from`: [name, index], where a cell only moves. Sums are over what is on this page; `all` is how many
// terms there are.

const digits = (v) => (v === undefined ? "—" : Number.isFinite(v) ? String(+v.toPrecision(4)) : String(v));

// Σ over the indices that both axes have on this page.
const both = (one, axis, two, other) => { const there = new Set(two.there(other)); return one.there(axis).filter((i) => there.has(i)); };

const slope = (x) => (x <= -3 ? 0 : x >= 3 ? 1 : (2 * x + 3) / 6);
const sizesOf = (stop) => stop.with.sizes ?? [];
const strided = (q, height, width, stride) => { const columns = Math.ceil(width / stride); return [Math.floor(q / columns) * stride, (q % columns) * stride]; };

const MAKES = {
  convolution(a, name, [o, u, v], stop) {
    const { stride, padding } = stop.with, kernel = a.w.shape[2], [channels, height, width] = a.x.shape, terms = [];
    for (const c of both(a.x, 0, a.w, 1)) for (const i of range(kernel)) for (const j of range(kernel)) {
      const r = u * stride + i - padding, s = v * stride + j - padding;
      const inside = r >= 0 && r < height && s >= 0 && s < width;
      terms.push([`x[${c}, ${r}, ${s}] · w[${o}, ${c}, ${i}, ${j}]`, inside ? a.x.at(c, r, s) : 0, a.w.at(o, c, i, j)]);
    }
    return { formula: `y[${o}, ${u}, ${v}] = Σ x[c, ${u}·${stride}+i-${padding}, ${v}·${stride}+j-${padding}] · w[${o}, c, i, j]`, terms, all: channels * kernel ** 2 };
  },
  linear(a, name, index) {
    const o = index.at(-1), before = index.slice(0, -1), at = (c) => [...before, c].join(", ");
    const terms = both(a.x, a.x.shape.length - 1, a.w, 1).map((c) => [`x[${at(c)}] · w[${o}, ${c}]`, a.x.at(...before, c), a.w.at(o, c)]);
    if (a.b) terms.push([`b[${o}]`, a.b.at(o), 1]);
    return { formula: `y[${index.join(", ")}] = Σ_c x[${[...before, "c"].join(", ")}] · w[${o}, c]${a.b ? " + b" : ""}`, terms, all: a.w.shape[1] + (a.b ? 1 : 0) };
  },
  normalize(a, name, index, stop) {
    const c = channelOf(a.x, index), x = a.x.at(...index), [g, b, m, v] = ["gamma", "beta", "mean", "variance"].map((k) => a[k].at(c)), eps = stop.with.eps;
    const scale = g / Math.sqrt(v + eps);
    return { formula: `y = γ (x − μ) / √(σ² + ε) + β`, lines: [
      `${digits(g)} · (${digits(x)} − ${digits(m)}) / √(${digits(v)} + ${eps}) + ${digits(b)}`, `= ${digits(scale)} · ${digits(x - m)} + ${digits(b)}`, `= ${digits(scale * (x - m) + b)}`] };
  },
  layer_norm(a, name, [n, c]) {
    const row = a.x.there(1).map((k) => a.x.at(n, k));
    return { formula: "y = γ x̂ + β", lines: row.length < a.x.shape[1] ? [t("rowNotWhole")] : (() => {
      const mean = row.reduce((s, v) => s + v, 0) / row.length, variance = row.reduce((s, v) => s + (v - mean) ** 2, 0) / row.length, x = a.x.at(n, c);
      return [`${digits(a.gamma.at(c))} · (${digits(x)} − ${digits(mean)}) / √${digits(variance)} + ${digits(a.beta.at(c))}`, `= ${digits(a.gamma.at(c) * (x - mean) / Math.sqrt(variance) + a.beta.at(c))}`];
    })() };
  },
  hardswish(a, name, index) {
    const x = a.x.at(...index), gate = Math.min(6, Math.max(0, x + 3)) / 6;
    return { formula: "y = x · clip(x + 3, 0, 6) / 6", lines: [`${digits(x)} · ${digits(6 * gate)} / 6 = ${digits(x * gate)}`] };
  },
  silu(a, name, index) {
    const x = a.x.at(...index);
    return { formula: "y = x · sigmoid(x)", lines: [`${digits(x)} · ${digits(1 / (1 + Math.exp(-x)))} = ${digits(x / (1 + Math.exp(-x)))}`] };
  },
  identity: (a, name, index) => ({ formula: "y = x", from: ["x", index] }),
  split_heads(a, name, [head, n, j], stop) {
    const names = Object.keys(stop.out), sizes = sizesOf(stop), part = names.indexOf(name);
    const channel = head * sizes.reduce((x, y) => x + y, 0) + sizes.slice(0, part).reduce((x, y) => x + y, 0) + j;
    return { formula: `${name}[${head}, ${n}, ${j}] = x[${n}, ${channel}]`, from: ["x", [n, channel]] };
  },
  merge_heads(a, name, [n, c]) {
    const size = a.x.shape[2], at = [Math.floor(c / size), n, c % size];
    return { formula: `y[${n}, ${c}] = x[${at.join(", ")}]`, from: ["x", at] };
  },
  subsample(a, name, [q, c], stop) {
    const { height, width, stride } = stop.with, [r, s] = strided(q, height, width, stride), n = r * width + s;
    return { formula: `y[${q}, ${c}] = x[${n}, ${c}]`, from: ["x", [n, c]] };
  },
  image_to_tokens(a, name, [n, c]) {
    const width = a.x.shape[2], at = [c, Math.floor(n / width), n % width];
    return { formula: `y[${n}, ${c}] = x[${at.join(", ")}]`, from: ["x", at] };
  },
  tokens_to_image(a, name, [c, r, s]) {
    const at = [r * a.y.shape[2] + s, c];
    return { formula: `y[${c}, ${r}, ${s}] = x[${at.join(", ")}]`, from: ["x", at] };
  },
  attention(a, name, index) {
    if (name === "probabilities") return { formula: "softmax(Q Kᵀ / √D + B)", lines: [t("seeAbove")] };
    const [head, q, j] = index;
    const terms = range(a.v.shape[1]).map((k) => [`p[${head}, ${q}, ${k}] · v[${head}, ${k}, ${j}]`, a.probabilities.at(head, q, k), a.v.at(head, k, j)]);
    return { formula: `y[${index.join(", ")}] = Σ_k p[${head}, ${q}, k] · v[${head}, k, ${j}]`, terms, all: terms.length };
  },
  add: (a, name, index) => ({ formula: "y = x + branch(x)", lines: a.branch ? [`${a.x.text(...index)} + ${a.branch.text(...index)} = ${digits(a.x.at(...index) + a.branch.at(...index))}`] : [] }),
  average_pool: (a, name, [c]) => ({ formula: `y[${c}] = 1/${a.x.shape[0]} Σ_n x[n, ${c}]`, all: a.x.shape[0],
    terms: a.x.places[1] && !a.x.has([0, c]) ? [] : range(a.x.shape[0]).map((n) => [`x[${n}, ${c}] / ${a.x.shape[0]}`, a.x.at(n, c), 1 / a.x.shape[0]]) }),
  average: (a, name, [c]) => ({ formula: "y = (head + head_dist) / 2", lines: [`(${a.head.text(c)} + ${a.head_dist.text(c)}) / 2 = ${digits((a.head.at(c) + a.head_dist.at(c)) / 2)}`] }),

  // Backward.
  linear_backward(a, name, index) {
    if (name === "dw") {
      const [o, c] = index;
      if (a.dy.shape.length === 1) return { formula: `dw[${o}, ${c}] = dy[${o}] · x[${c}]`, terms: [[`dy[${o}] · x[${c}]`, a.dy.at(o), a.x.at(c)]], all: 1 };
      const n = a.x.has([0, c]) && a.dy.has([0, o]) ? range(a.x.shape[0]) : [];
      return { formula: `dw[${o}, ${c}] = Σ_n dy[n, ${o}] · x[n, ${c}]`, all: a.x.shape[0], terms: n.map((i) => [`dy[${i}, ${o}] · x[${i}, ${c}]`, a.dy.at(i, o), a.x.at(i, c)]) };
    }
    const c = index.at(-1), before = index.slice(0, -1);
    const terms = both(a.dy, a.dy.shape.length - 1, a.w, 0).map((o) => [`dy[${[...before, o].join(", ")}] · w[${o}, ${c}]`, a.dy.at(...before, o), a.w.at(o, c)]);
    return { formula: `dx[${index.join(", ")}] = Σ_o dy[${[...before, "o"].join(", ")}] · w[o, ${c}]`, terms, all: a.w.shape[0] };
  },
  bias_backward: (a, name, [o]) => ({ formula: `db[${o}] = Σ dy[…, ${o}]`, terms: a.dy.shape.length === 1 ? [[`dy[${o}]`, a.dy.at(o), 1]] : range(a.dy.shape[0]).map((n) => [`dy[${n}, ${o}]`, a.dy.at(n, o), 1]), all: a.dy.shape.length === 1 ? 1 : a.dy.shape[0] }),
  convolution_backward(a, name, index, stop) {
    const { stride, padding } = stop.with, kernel = a.w.shape[2], [, height, width] = a.dy.shape, terms = [];
    if (name === "dw") {
      const [o, c, i, j] = index;
      if (a.dy.has([o, 0, 0]) && a.x.has([c, 0, 0])) for (const u of range(height)) for (const v of range(width)) {
        const r = u * stride + i - padding, s = v * stride + j - padding;
        if (r >= 0 && s >= 0 && r < a.x.shape[1] && s < a.x.shape[2]) terms.push([`dy[${o}, ${u}, ${v}] · x[${c}, ${r}, ${s}]`, a.dy.at(o, u, v), a.x.at(c, r, s)]);
      }
      return { formula: `dw[${index.join(", ")}] = Σ_{u,v} dy[${o}, u, v] · x[${c}, u·${stride}+${i}-${padding}, v·${stride}+${j}-${padding}]`, terms, all: terms.length };
    }
    const [c, r, s] = index;
    let cells = 0;
    for (const i of range(kernel)) for (const j of range(kernel)) {
      const u = (r + padding - i) / stride, v = (s + padding - j) / stride;
      if (!Number.isInteger(u) || !Number.isInteger(v) || u < 0 || v < 0 || u >= height || v >= width) continue;
      cells++;
      for (const o of both(a.dy, 0, a.w, 0)) if (a.w.has([o, c, i, j])) terms.push([`dy[${o}, ${u}, ${v}] · w[${o}, ${c}, ${i}, ${j}]`, a.dy.at(o, u, v), a.w.at(o, c, i, j)]);
    }
    return { formula: `dx[${index.join(", ")}] = Σ dy[o, u, v] · w[o, ${c}, i, j]`, terms, all: cells * a.w.shape[0] };
  },
  normalize_backward(a, name, index, stop) {
    const c = name === "dx" ? channelOf(a.x, index) : index[0], deviation = Math.sqrt(a.variance.at(c) + stop.with.eps);
    if (name === "dx") return { formula: "dx = dy · γ / √(σ² + ε)", lines: [`${a.dy.text(...index)} · ${digits(a.gamma.at(c))} / ${digits(deviation)} = ${digits(a.dy.at(...index) * a.gamma.at(c) / deviation)}`] };
    const cells = cellsOf(a.x, c), scaled = (i) => (a.x.at(...i) - a.mean.at(c)) / deviation;
    if (name === "dbeta") return { formula: `dbeta[${c}] = Σ dy`, terms: cells.map((i) => [`dy[${i.join(", ")}]`, a.dy.at(...i), 1]), all: cells.length };
    return { formula: `dgamma[${c}] = Σ dy · x̂,  x̂ = (x − μ) / √(σ² + ε)`, terms: cells.map((i) => [`dy[${i.join(", ")}] · x̂`, a.dy.at(...i), scaled(i)]), all: cells.length };
  },
  hardswish_backward(a, name, index) {
    const x = a.x.at(...index);
    return { formula: "dx = dy · slope(x)", lines: [`x = ${digits(x)}: slope ${x <= -3 ? "0" : x >= 3 ? "1" : `(2 · ${digits(x)} + 3) / 6 = ${digits(slope(x))}`}`, `${a.dy.text(...index)} · ${digits(slope(x))} = ${digits(a.dy.at(...index) * slope(x))}`] };
  },
  split_heads_backward(a, name, [n, c], stop) {
    const parts = Object.keys(stop.in), sizes = parts.map((p) => a[p].shape[2]), whole = sizes.reduce((x, y) => x + y, 0);
    let rest = c % whole, part = 0;
    while (rest >= sizes[part]) rest -= sizes[part++];
    const at = [Math.floor(c / whole), n, rest];
    return { formula: `dx[${n}, ${c}] = ${parts[part]}[${at.join(", ")}]`, from: [parts[part], at] };
  },
  merge_heads_backward(a, name, [head, n, j]) {
    const at = [n, head * a.dx.shape[2] + j];
    return { formula: `dx[${head}, ${n}, ${j}] = dy[${at.join(", ")}]`, from: ["dy", at] };
  },
  subsample_backward(a, name, [n, c], stop) {
    const { height, width, stride } = stop.with, r = Math.floor(n / width), s = n % width;
    if (r % stride || s % stride) return { formula: `dx[${n}, ${c}] = 0`, lines: [t("leftOutPixel")] };
    const at = [(r / stride) * Math.ceil(width / stride) + s / stride, c];
    return { formula: `dx[${n}, ${c}] = dy[${at.join(", ")}]`, from: ["dy", at] };
  },
  attention_backward(a, name, index) {
    const [head, i, j] = index, scale = a.q.shape[2] ** -0.5;
    if (name === "dv") return { formula: `dv[${index.join(", ")}] = Σ_q p[${head}, q, ${i}] · dy[${head}, q, ${j}]`, all: a.q.shape[1],
      terms: range(a.q.shape[1]).map((q) => [`p[${head}, ${q}, ${i}] · dy[${head}, ${q}, ${j}]`, a.probabilities.at(head, q, i), a.dy.at(head, q, j)]) };
    if (name === "dbias") return { formula: `ds[${index.join(", ")}] = p · (dp − Σ_k dp p),  dp = dy vᵀ`, lines: [`p = ${a.probabilities.text(...index)}`, t("dscoresNote")] };
    const queries = name === "dq", other = queries ? a.k : a.q, d = a.dbias;
    if (!d) return { formula: queries ? "dq = scale · ds k" : "dk = scale · dsᵀ q", lines: [] };
    return { formula: queries ? `dq[${index.join(", ")}] = ${digits(scale)} Σ_k ds[${head}, ${i}, k] · k[${head}, k, ${j}]` : `dk[${index.join(", ")}] = ${digits(scale)} Σ_q ds[${head}, q, ${i}] · q[${head}, q, ${j}]`,
      all: other.shape[1], terms: range(other.shape[1]).map((k) => [`ds[${queries ? `${head}, ${i}, ${k}` : `${head}, ${k}, ${i}`}] · ${queries ? "k" : "q"}[${head}, ${k}, ${j}]`,
        queries ? d.at(head, i, k) : d.at(head, k, i), other.at(head, k, j) * scale]) };
  },
  gather_bias_backward(a, name, [head, offset], stop) {
    const [, queries, keys] = a.dbias.shape, [rows, columns] = gridOf(keys), [, queryColumns] = gridOf(queries), stride = Math.round(Math.sqrt(keys / queries)), terms = [];
    for (const q of range(queries)) for (const k of range(keys)) {
      const y = Math.floor(q / queryColumns) * stride, x = (q % queryColumns) * stride;
      if (Math.abs(y - Math.floor(k / columns)) * columns + Math.abs(x - (k % columns)) === offset) terms.push([`dbias[${head}, ${q}, ${k}]`, a.dbias.at(head, q, k), 1]);
    }
    return { formula: `dtable[${head}, ${offset}] = Σ dbias[${head}, q, k],  |Δy| = ${Math.floor(offset / columns)}, |Δx| = ${offset % columns}`, terms, all: terms.length };
  },
  targets_of: (a, name, [c]) => ({ formula: "targets[c] = 1, 0, …", lines: [`${doc.labels[c]}: ${a.targets.text(c)}`] }),
  cross_entropy_backward: (a, name, [c]) => believed(a.logits, c, a.targets.at(c), ""),
  hard_distillation_backward: (a, name, [c]) => believed(a.logits, c, doc.teacher === c ? 1 : 0, t("teacherSays")),
  average_pool_backward: (a, name, [n, c], stop) => ({ formula: `dx[n, ${c}] = dy[${c}] / ${a.dx.shape[0]}`, lines: [`${a.dy.text(c)} / ${a.dx.shape[0]} = ${digits(a.dy.at(c) / a.dx.shape[0])}`] }),
  add_backward: () => ({ formula: "dx = dy + dbranch", lines: [t("addBackward")] }),
};

// softmax - target, for a class.
function believed(logits, c, target, text) {
  const share = softmaxOf(logits)[c];
  return { formula: `dlogits[${c}] = softmax(logits)[${c}] − ${target}`, lines: [`${doc.labels[c]}: e^${logits.text(c)} / Σ_j e^logits[j] = ${digits(share)}`, `${digits(share)} − ${target} = ${digits(share - target)}${text && `   (${text})`}`] };
}

const channelOf = (tensor, index) => (tensor.layout === "image" ? index[0] : index.at(-1));

// Every cell of a channel.
function cellsOf(tensor, c) {
  if (tensor.layout === "vector") return [[c]];
  if (tensor.layout === "tokens") return tensor.has([0, c]) ? range(tensor.shape[0]).map((n) => [n, c]) : [];
  return tensor.has([c, 0, 0]) ? range(tensor.shape[1]).flatMap((r) => range(tensor.shape[2]).map((s) => [c, r, s])) : [];
}

// The box that shows it.
function madeOf(stop, arrays, name, index) {
  const target = arrays[name], box = h("section", { class: "made", "aria-label": t("madeOf") });
  const title = h("h3", {}, t("thisNumber"), " ", h("code", {}, `${name}[${index.join(", ")}]`), " = ", h("b", { class: "value", "data-made": index.join() }, target.text(...index)));
  box.append(title);
  const whole = Object.keys(stop.in).every((given) => arrays[given]); // of the second loss, a large page leaves out some
  const made = whole ? MAKES[stop.op]?.(arrays, name, index, stop) : { lines: [], terms: [] };
  if (!made) return box;
  if (made.formula) box.append(h("p", { class: "formula" }, made.formula));
  if (made.lines?.length) box.append(...made.lines.map((line) => h("p", { class: "computed" }, line)), h("p", { class: "note" }, t("rounded")));
  if (made.from) {
    const [source, at] = made.from, there = arrays[source]?.has(at);
    box.append(h("p", {}, there ? t("moved", { from: `${source}[${at.join(", ")}]`, value: arrays[source].text(...at) }) : t("movedAway", { from: `${source}[${at.join(", ")}]` })));
  }
  if (made.terms) box.append(sum(made, target.at(...index), target.text(...index)));
  return box;
}

const TERMS = 9; // of the largest

function sum(made, value, text) {
  const known = made.terms.filter(([, a, b]) => a !== undefined && b !== undefined).map(([what, a, b]) => ({ what, a, b, product: a * b }));
  if (!known.length) return h("p", { class: "note" }, t("noTerms"));
  const total = known.reduce((s, term) => s + term.product, 0), rest = made.all - known.length;
  const largest = Math.max(...known.map((term) => Math.abs(term.product))), order = [...known].sort((x, y) => Math.abs(y.product) - Math.abs(x.product));
  const first = order.slice(0, TERMS), others = order.slice(TERMS), add = (terms) => terms.reduce((s, term) => s + term.product, 0);
  const row = (label, a, b, product, cls = "") => h("tr", { class: cls }, h("th", { scope: "row" }, label), h("td", {}, a), h("td", {}, b), h("td", {}, digits(product)),
    h("td", { class: "bars" }, h("span", { class: product < 0 ? "minus" : "plus", style: { width: `${Math.min(100, 100 * Math.abs(product) / (largest || 1))}%` } })));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("terms") }, h("table", { class: "terms" },
    h("caption", {}, t("largestTerms", { n: first.length, all: number(made.all) })),
    h("thead", {}, h("tr", {}, [t("term"), "a", "b", "a · b"].map((x) => h("th", { scope: "col" }, x)), h("td"))),
    h("tbody", {}, first.map((term) => row(term.what, digits(term.a), digits(term.b), term.product)),
      others.length ? row(t("otherTerms", { n: number(others.length) }), "", "", add(others), "others") : null,
      rest > 0 ? row(t("termsElsewhere", { n: number(rest) }), "", "", value - total, "others") : null),
    h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, t("sum")), h("td"), h("td"), h("td", {}, h("b", {}, rest > 0 ? text : digits(total))), h("td")),
      rest > 0 ? null : h("tr", {}, h("th", { scope: "row" }, t("network")), h("td"), h("td"), h("td", {}, h("b", {}, text)), h("td")))));
}
