"use strict";
// How each forward operation computes a cell of its result; makes_backward.js does the same for gradients.
//
// MAKES[op](a, name, index, stop): `a` holds the operation's arrays by name, `name[index]` is the cell. Its result
// is shown by `madeOf`: `formula` with this cell's indices; then either `terms` [what, factor, factor] that are summed,
// or `lines` of text; `from`: [name, index] if the cell is only moved. Sums are over what is on this page; `all` is how
// many terms there are.

// A number with the given number of digits: "1.277e-5" like the packed ones, not 0.00001277.
function digits(v, count = 4) {
  if (v === undefined) return "—";
  if (!Number.isFinite(v)) return String(v);
  return v !== 0 && Math.abs(v) < 1e-4 ? v.toExponential(count - 1) : String(+v.toPrecision(count));
}

// A number after a sign or a factor: in parentheses if negative.
const inner = (text) => (text.startsWith("-") ? `(${text})` : text);

// Σ over the indices that both axes have on this page.
const both = (one, axis, two, other) => {
  const there = new Set(two.there(other));
  return one.there(axis).filter((i) => there.has(i));
};

const slope = (x) => (x <= -3 ? 0 : x >= 3 ? 1 : (2 * x + 3) / 6);
const strided = (q, height, width, stride) => {
  const columns = Math.ceil(width / stride);
  return [Math.floor(q / columns) * stride, (q % columns) * stride];
};

const channelOf = (tensor, index) => (tensor.layout === "image" ? index[0] : index.at(-1));

// Every cell of a channel.
function cellsOf(tensor, c) {
  if (tensor.layout === "vector") return [[c]];
  if (tensor.layout === "tokens") return tensor.has([0, c]) ? range(tensor.shape[0]).map((n) => [n, c]) : [];
  return tensor.has([c, 0, 0])
    ? range(tensor.shape[1]).flatMap((r) => range(tensor.shape[2]).map((s) => [c, r, s]))
    : [];
}

// Mean, variance and deviation over the channels of the cell's token; null if some of them are not on this
// page.
function tokenOf(x, index, eps) {
  const axis = x.shape.length - 1,
    row = x.there(axis).map((c) => x.at(...index.slice(0, axis), c));
  if (row.length < x.shape[axis]) return null;
  const mean = add(row) / row.length,
    variance = add(row.map((v) => (v - mean) ** 2)) / row.length;
  return { mean, variance, deviation: Math.sqrt(variance + eps) };
}

// A sum of two numbers.
const sumOf = (formula, one, other, index) => ({
  formula,
  lines: [`${one.text(...index)} + ${inner(other.text(...index))} = ${digits(one.at(...index) + other.at(...index))}`],
});

const MAKES = {
  convolution(a, name, [o, u, v], stop) {
    const { stride, padding } = stop.with,
      kernel = a.w.shape[2],
      [channels, height, width] = a.x.shape,
      terms = [];
    for (const c of both(a.x, 0, a.w, 1))
      for (const i of range(kernel))
        for (const j of range(kernel)) {
          const r = u * stride + i - padding,
            s = v * stride + j - padding;
          const inside = r >= 0 && r < height && s >= 0 && s < width;
          terms.push([
            `x[${c}, ${r}, ${s}] · w[${o}, ${c}, ${i}, ${j}]`,
            inside ? a.x.at(c, r, s) : 0,
            a.w.at(o, c, i, j),
          ]);
        }
    return {
      formula: `y[${o}, ${u}, ${v}] = Σ x[c, ${u}·${stride}+i-${padding}, ${v}·${stride}+j-${padding}] · w[${o}, c, i, j]`,
      terms,
      all: channels * kernel ** 2,
    };
  },
  linear(a, name, index) {
    const o = index.at(-1),
      before = index.slice(0, -1),
      at = (c) => [...before, c].join(", ");
    const terms = both(a.x, a.x.shape.length - 1, a.w, 1).map((c) => [
      `x[${at(c)}] · w[${o}, ${c}]`,
      a.x.at(...before, c),
      a.w.at(o, c),
    ]);
    if (a.b) terms.push([`b[${o}]`, a.b.at(o), 1]);
    return {
      formula: `y[${index.join(", ")}] = Σ_c x[${[...before, "c"].join(", ")}] · w[${o}, c]${a.b ? " + b" : ""}`,
      terms,
      all: a.w.shape[1] + (a.b ? 1 : 0),
    };
  },
  normalize(a, name, index, stop) {
    const c = channelOf(a.x, index),
      x = a.x.at(...index),
      [g, b, m, v] = ["gamma", "beta", "mean", "variance"].map((k) => a[k].at(c)),
      eps = stop.with.eps;
    const formula = "y = γ (x − μ) / √(σ² + ε) + β",
      scale = g / Math.sqrt(v + eps);
    if ([x, g].includes(undefined)) return { formula, terms: [] };
    return {
      formula,
      lines: [
        `${digits(g)} · (${digits(x)} − ${inner(digits(m))}) / √(${digits(v)} + ${eps}) + ${inner(digits(b))}`,
        `= ${digits(scale)} · ${inner(digits(x - m))} + ${inner(digits(b))}`,
        `= ${digits(scale * (x - m) + b)}`,
      ],
    };
  },
  layer_norm(a, name, index, stop) {
    const formula = "y = γ (x − μ) / √(σ² + ε) + β",
      token = tokenOf(a.x, index, stop.with.eps),
      [x, g, b] = [a.x.at(...index), a.gamma.at(index.at(-1)), a.beta.at(index.at(-1))];
    if (!token || g === undefined) return { formula, ...(token ? { terms: [] } : { lines: [t("rowNotWhole")] }) };
    const { mean, variance, deviation } = token;
    return {
      formula,
      lines: [
        `${digits(g)} · (${digits(x)} − ${inner(digits(mean))}) / √(${digits(variance)} + ${stop.with.eps}) + ${inner(digits(b))}`,
        `= ${digits((g * (x - mean)) / deviation + b)}`,
      ],
    };
  },
  hardswish(a, name, index) {
    const x = a.x.at(...index),
      gate = Math.min(6, Math.max(0, x + 3)) / 6;
    return {
      formula: "y = x · clip(x + 3, 0, 6) / 6",
      lines: [`${digits(x)} · ${digits(6 * gate)} / 6 = ${digits(x * gate)}`],
    };
  },
  silu(a, name, index) {
    const x = a.x.at(...index);
    return {
      formula: "y = x · sigmoid(x)",
      lines: [`${digits(x)} · ${digits(1 / (1 + Math.exp(-x)))} = ${digits(x / (1 + Math.exp(-x)))}`],
    };
  },
  identity: (a, name, index) => ({ formula: "y = x", from: ["x", index] }),
  split_heads(a, name, [head, n, j], stop) {
    const names = Object.keys(stop.out),
      sizes = stop.with.sizes,
      part = names.indexOf(name);
    const channel = head * sizes.reduce((x, y) => x + y, 0) + sizes.slice(0, part).reduce((x, y) => x + y, 0) + j;
    return { formula: `${name}[${head}, ${n}, ${j}] = x[${n}, ${channel}]`, from: ["x", [n, channel]] };
  },
  merge_heads(a, name, [n, c]) {
    const size = a.x.shape[2],
      at = [Math.floor(c / size), n, c % size];
    return { formula: `y[${n}, ${c}] = x[${at.join(", ")}]`, from: ["x", at] };
  },
  subsample(a, name, [q, c], stop) {
    const { height, width, stride } = stop.with,
      [r, s] = strided(q, height, width, stride),
      n = r * width + s;
    return { formula: `y[${q}, ${c}] = x[${n}, ${c}]`, from: ["x", [n, c]] };
  },
  image_to_tokens(a, name, [n, c]) {
    const width = a.x.shape[2],
      at = [c, Math.floor(n / width), n % width];
    return { formula: `y[${n}, ${c}] = x[${at.join(", ")}]`, from: ["x", at] };
  },
  tokens_to_image(a, name, [c, r, s]) {
    const at = [r * a.y.shape[2] + s, c];
    return { formula: `y[${c}, ${r}, ${s}] = x[${at.join(", ")}]`, from: ["x", at] };
  },
  attention(a, name, index) {
    if (name === "probabilities")
      return { formula: `softmax(Q Kᵀ / √D${wordsFor().bias})`, lines: [t("seeAbove")] };
    const [head, q, j] = index;
    const terms = range(a.v.shape[1]).map((k) => [
      `p[${head}, ${q}, ${k}] · v[${head}, ${k}, ${j}]`,
      a.probabilities.at(head, q, k),
      a.v.at(head, k, j),
    ]);
    return {
      formula: `y[${index.join(", ")}] = Σ_k p[${head}, ${q}, k] · v[${head}, k, ${j}]`,
      terms,
      all: terms.length,
    };
  },
  prepend_token: (a, name, [n, c]) =>
    n === 0
      ? { formula: `y[0, ${c}] = token[0, ${c}]`, from: ["token", [0, c]] }
      : { formula: `y[${n}, ${c}] = x[${n - 1}, ${c}]`, from: ["x", [n - 1, c]] },
  first_token: (a, name, [c]) => ({ formula: `y[${c}] = x[0, ${c}]`, from: ["x", [0, c]] }),
  add: (a, name, index) => sumOf("y = x + branch(x)", a.x, a.branch, index),
  add_embedding: (a, name, index) => sumOf("y = x + embedding", a.x, a.embedding, index),
  add_beta: (a, name, [c, r, s]) => ({
    formula: "y = x + beta",
    lines: [`${a.x.text(c, r, s)} + ${inner(a.beta.text(c))} = ${digits(a.x.at(c, r, s) + a.beta.at(c))}`],
  }),
  average_pool: (a, name, [c]) => ({
    formula: `y[${c}] = 1/${a.x.shape[0]} Σ_n x[n, ${c}]`,
    all: a.x.shape[0],
    terms:
      a.x.places[1] && !a.x.has([0, c])
        ? []
        : range(a.x.shape[0]).map((n) => [`x[${n}, ${c}] / ${a.x.shape[0]}`, a.x.at(n, c), 1 / a.x.shape[0]]),
  }),
  average: (a, name, [c]) => ({
    formula: "y = (head + head_dist) / 2",
    lines: [
      `(${a.head.text(c)} + ${inner(a.head_dist.text(c))}) / 2 = ${digits((a.head.at(c) + a.head_dist.at(c)) / 2)}`,
    ],
  }),
};
