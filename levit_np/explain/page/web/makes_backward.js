"use strict";
// How each gradient is computed; the format is described in makes.js.

Object.assign(MAKES, {
  linear_backward(a, name, index) {
    if (name === "dw") {
      const [o, c] = index;
      if (a.dy.shape.length === 1)
        return {
          formula: `dw[${o}, ${c}] = dy[${o}] · x[${c}]`,
          terms: [[`dy[${o}] · x[${c}]`, a.dy.at(o), a.x.at(c)]],
          all: 1,
        };
      const n = a.x.has([0, c]) && a.dy.has([0, o]) ? range(a.x.shape[0]) : [];
      return {
        formula: `dw[${o}, ${c}] = Σ_n dy[n, ${o}] · x[n, ${c}]`,
        all: a.x.shape[0],
        terms: n.map((i) => [`dy[${i}, ${o}] · x[${i}, ${c}]`, a.dy.at(i, o), a.x.at(i, c)]),
      };
    }
    const c = index.at(-1),
      before = index.slice(0, -1);
    const terms = both(a.dy, a.dy.shape.length - 1, a.w, 0).map((o) => [
      `dy[${[...before, o].join(", ")}] · w[${o}, ${c}]`,
      a.dy.at(...before, o),
      a.w.at(o, c),
    ]);
    return {
      formula: `dx[${index.join(", ")}] = Σ_o dy[${[...before, "o"].join(", ")}] · w[o, ${c}]`,
      terms,
      all: a.w.shape[0],
    };
  },
  bias_backward: (a, name, [o]) => ({
    formula: `db[${o}] = Σ dy[…, ${o}]`,
    terms:
      a.dy.shape.length === 1
        ? [[`dy[${o}]`, a.dy.at(o), 1]]
        : range(a.dy.shape[0]).map((n) => [`dy[${n}, ${o}]`, a.dy.at(n, o), 1]),
    all: a.dy.shape.length === 1 ? 1 : a.dy.shape[0],
  }),
  convolution_backward(a, name, index, stop) {
    const { stride, padding } = stop.with,
      kernel = a.w.shape[2],
      [, height, width] = a.dy.shape,
      terms = [];
    if (name === "dw") {
      const [o, c, i, j] = index;
      if (a.dy.has([o, 0, 0]) && a.x.has([c, 0, 0]))
        for (const u of range(height))
          for (const v of range(width)) {
            const r = u * stride + i - padding,
              s = v * stride + j - padding;
            if (r >= 0 && s >= 0 && r < a.x.shape[1] && s < a.x.shape[2])
              terms.push([`dy[${o}, ${u}, ${v}] · x[${c}, ${r}, ${s}]`, a.dy.at(o, u, v), a.x.at(c, r, s)]);
          }
      return {
        formula: `dw[${index.join(", ")}] = Σ_{u,v} dy[${o}, u, v] · x[${c}, u·${stride}+${i}-${padding}, v·${stride}+${j}-${padding}]`,
        terms,
        all: terms.length,
      };
    }
    const [c, r, s] = index;
    let cells = 0;
    for (const i of range(kernel))
      for (const j of range(kernel)) {
        const u = (r + padding - i) / stride,
          v = (s + padding - j) / stride;
        if (!Number.isInteger(u) || !Number.isInteger(v) || u < 0 || v < 0 || u >= height || v >= width) continue;
        cells++;
        for (const o of both(a.dy, 0, a.w, 0))
          if (a.w.has([o, c, i, j]))
            terms.push([`dy[${o}, ${u}, ${v}] · w[${o}, ${c}, ${i}, ${j}]`, a.dy.at(o, u, v), a.w.at(o, c, i, j)]);
      }
    return { formula: `dx[${index.join(", ")}] = Σ dy[o, u, v] · w[o, ${c}, i, j]`, terms, all: cells * a.w.shape[0] };
  },
  normalize_backward(a, name, index, stop) {
    const c = name === "dx" ? channelOf(a.x, index) : index[0],
      deviation = Math.sqrt(a.variance.at(c) + stop.with.eps);
    if (name === "dx") {
      const formula = "dx = dy · γ / √(σ² + ε)",
        [dy, g] = [a.dy.at(...index), a.gamma.at(c)];
      if ([dy, g].includes(undefined)) return { formula, terms: [] };
      const line = `${a.dy.text(...index)} · ${inner(digits(g))} / ${digits(deviation)} = ${digits((dy * g) / deviation)}`;
      return { formula, lines: [line] };
    }
    const cells = cellsOf(a.x, c),
      scaled = (i) => (a.x.at(...i) - a.mean.at(c)) / deviation;
    if (name === "dbeta")
      return {
        formula: `dbeta[${c}] = Σ dy`,
        terms: cells.map((i) => [`dy[${i.join(", ")}]`, a.dy.at(...i), 1]),
        all: cells.length,
      };
    return {
      formula: `dgamma[${c}] = Σ dy · x̂,  x̂ = (x − μ) / √(σ² + ε)`,
      terms: cells.map((i) => [`dy[${i.join(", ")}] · x̂`, a.dy.at(...i), scaled(i)]),
      all: cells.length,
    };
  },
  layer_norm_backward(a, name, index, stop) {
    const { eps } = stop.with,
      c = index.at(-1);
    if (name !== "dx") {
      const terms = cellsOf(a.dy, c).flatMap((i) => {
        if (name === "dbeta") return [[`dy[${i.join(", ")}]`, a.dy.at(...i), 1]];
        const token = tokenOf(a.x, i, eps);
        return token ? [[`dy[${i.join(", ")}] · x̂`, a.dy.at(...i), (a.x.at(...i) - token.mean) / token.deviation]] : [];
      });
      const formula = name === "dbeta" ? `dbeta[${c}] = Σ dy` : `dgamma[${c}] = Σ dy · x̂,  x̂ = (x − μ) / √(σ² + ε)`;
      return { formula, terms, all: a.dy.layout === "vector" ? 1 : a.dy.shape[0] };
    }
    const formula = "dx = (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂)) / √(σ² + ε),  dx̂ = γ dy",
      token = tokenOf(a.x, index, eps),
      at = (k) => [...index.slice(0, -1), k],
      scaled = range(a.x.shape.at(-1)).map((k) => a.gamma.at(k) * a.dy.at(...at(k)));
    if (!token || scaled.some(Number.isNaN)) return { formula, lines: [t("rowNotWhole")] };
    const normalized = scaled.map((_, k) => (a.x.at(...at(k)) - token.mean) / token.deviation),
      mean = add(scaled) / scaled.length,
      through = add(scaled.map((d, k) => d * normalized[k])) / scaled.length,
      dx = (scaled[c] - mean - normalized[c] * through) / token.deviation;
    const [first, second, third, fourth] = [scaled[c], mean, normalized[c], through].map((v) => inner(digits(v)));
    return {
      formula,
      lines: [`(${first} − ${second} − ${third} · ${fourth}) / ${digits(token.deviation)} = ${digits(dx)}`],
    };
  },
  hardswish_backward(a, name, index) {
    const x = a.x.at(...index);
    return {
      formula: "dx = dy · y′(x)",
      lines: [
        `x = ${digits(x)}: y′(x) = ${x <= -3 ? "0" : x >= 3 ? "1" : `(2 · ${inner(digits(x))} + 3) / 6 = ${digits(slope(x))}`}`,
        `${a.dy.text(...index)} · ${inner(digits(slope(x)))} = ${digits(a.dy.at(...index) * slope(x))}`,
      ],
    };
  },
  silu_backward(a, name, index) {
    const x = a.x.at(...index),
      s = 1 / (1 + Math.exp(-x)),
      at = inner(digits(x));
    return {
      formula: "dx = dy · s (1 + x (1 − s)),  s = sigmoid(x)",
      lines: [
        `${a.dy.text(...index)} · ${digits(s)} · (1 + ${at} · (1 − ${digits(s)})) = ${digits(a.dy.at(...index) * s * (1 + x * (1 - s)))}`,
      ],
    };
  },
  identity_backward: (a, name, index) => ({ formula: "dx = dy", from: ["dy", index] }),
  split_heads_backward(a, name, [n, c], stop) {
    const parts = Object.keys(stop.in),
      sizes = parts.map((p) => a[p].shape[2]),
      whole = sizes.reduce((x, y) => x + y, 0);
    let rest = c % whole,
      part = 0;
    while (rest >= sizes[part]) rest -= sizes[part++];
    const at = [Math.floor(c / whole), n, rest];
    return { formula: `dx[${n}, ${c}] = ${parts[part]}[${at.join(", ")}]`, from: [parts[part], at] };
  },
  merge_heads_backward(a, name, [head, n, j]) {
    const at = [n, head * a.dx.shape[2] + j];
    return { formula: `dx[${head}, ${n}, ${j}] = dy[${at.join(", ")}]`, from: ["dy", at] };
  },
  subsample_backward(a, name, [n, c], stop) {
    const { height, width, stride } = stop.with,
      r = Math.floor(n / width),
      s = n % width;
    if (r % stride || s % stride) return { formula: `dx[${n}, ${c}] = 0`, lines: [t("leftOutPixel")] };
    const at = [(r / stride) * Math.ceil(width / stride) + s / stride, c];
    return { formula: `dx[${n}, ${c}] = dy[${at.join(", ")}]`, from: ["dy", at] };
  },
  attention_backward(a, name, index) {
    const [head, i, j] = index,
      scale = a.q.shape[2] ** -0.5;
    if (name === "dv")
      return {
        formula: `dv[${index.join(", ")}] = Σ_q p[${head}, q, ${i}] · dy[${head}, q, ${j}]`,
        all: a.q.shape[1],
        terms: range(a.q.shape[1]).map((q) => [
          `p[${head}, ${q}, ${i}] · dy[${head}, ${q}, ${j}]`,
          a.probabilities.at(head, q, i),
          a.dy.at(head, q, j),
        ]),
      };
    if (name === "dbias")
      return {
        formula: `ds[${index.join(", ")}] = p · (dp − Σ_k dp p),  dp = dy vᵀ`,
        lines: [`p = ${a.probabilities.text(...index)}`, t("dscoresNote")],
      };
    const queries = name === "dq",
      other = queries ? a.k : a.q,
      d = a.dbias;
    if (!d) return { formula: queries ? "dq = scale · ds k" : "dk = scale · dsᵀ q", lines: [] };
    return {
      formula: queries
        ? `dq[${index.join(", ")}] = ${digits(scale)} Σ_k ds[${head}, ${i}, k] · k[${head}, k, ${j}]`
        : `dk[${index.join(", ")}] = ${digits(scale)} Σ_q ds[${head}, q, ${i}] · q[${head}, q, ${j}]`,
      all: other.shape[1],
      terms: range(other.shape[1]).map((k) => [
        `ds[${queries ? `${head}, ${i}, ${k}` : `${head}, ${k}, ${i}`}] · ${queries ? "k" : "q"}[${head}, ${k}, ${j}]`,
        queries ? d.at(head, i, k) : d.at(head, k, i),
        other.at(head, k, j) * scale,
      ]),
    };
  },
  gather_bias_backward(a, name, [head, offset], stop) {
    const [, queries, keys] = a.dbias.shape,
      [rows, columns] = gridOf(keys),
      [, queryColumns] = gridOf(queries),
      { stride } = layersByName.get(stop.layer),
      terms = [];
    for (const q of range(queries))
      for (const k of range(keys)) {
        const y = Math.floor(q / queryColumns) * stride,
          x = (q % queryColumns) * stride;
        if (Math.abs(y - Math.floor(k / columns)) * columns + Math.abs(x - (k % columns)) === offset)
          terms.push([`dbias[${head}, ${q}, ${k}]`, a.dbias.at(head, q, k), 1]);
      }
    return {
      formula: `dtable[${head}, ${offset}] = Σ dbias[${head}, q, k],  |Δy| = ${Math.floor(offset / columns)}, |Δx| = ${offset % columns}`,
      terms,
      all: terms.length,
    };
  },
  targets_of: (a, name, [c]) => ({
    formula: `targets[${c}] = [${c} = label]`,
    lines: [`${doc.labels[c]}: ${a.targets.text(c)}`],
  }),
  cross_entropy_backward: (a, name, [c]) => believed(a.logits, c, a.targets.at(c), ""),
  hard_distillation_backward: (a, name, [c]) => believed(a.logits, c, doc.teacher === c ? 1 : 0, t("teacherSays")),
  average_pool_backward: (a, name, [n, c], stop) => ({
    formula: `dx[n, ${c}] = dy[${c}] / ${a.dx.shape[0]}`,
    lines: [`${a.dy.text(c)} / ${a.dx.shape[0]} = ${digits(a.dy.at(c) / a.dx.shape[0])}`],
  }),
  first_token_backward: (a, name, [n, c]) =>
    n === 0
      ? { formula: `dx[0, ${c}] = dy[${c}]`, from: ["dy", [c]] }
      : { formula: `dx[${n}, ${c}] = 0`, lines: [t("what.first_token_backward")] },
  prepend_token_backward(a, name, [n, c]) {
    const from = name === "dtoken" ? 0 : n + 1;
    return { formula: `${name}[${n}, ${c}] = dy[${from}, ${c}]`, from: ["dy", [from, c]] };
  },
  add_backward: (a, name, index) => sumOf("dx = dy + dbranch", a.dy, a.dbranch, index),
  add_embedding_backward: (a, name, index) => ({ formula: "dembedding = Σ_b dy", from: ["dy", index] }),
  add_beta_backward(a, name, [c]) {
    const cells = cellsOf(a.dy, c);
    return {
      formula: `dbeta[${c}] = Σ dy[${c}, u, v]`,
      terms: cells.map((i) => [`dy[${i.join(", ")}]`, a.dy.at(...i), 1]),
      all: cells.length,
    };
  },
  sum_backward: (a, name, index) =>
    a.dhead
      ? sumOf("dx = dhead + dhead_dist", a.dhead, a.dhead_dist, index)
      : sumOf("dx = dqueries + dkeys", a.dqueries, a.dkeys, index),
  average_backward(a, name, [c]) {
    const source = name === "dhead_dist" && a.dlogits_dist ? "dlogits_dist" : "dlogits";
    return {
      formula: `${name}[${c}] = ${source}[${c}] / 2`,
      lines: [`${a[source].text(c)} / 2 = ${digits(a[source].at(c) / 2)}`],
    };
  },
});

// softmax - target, for a class.
function believed(logits, c, target, text) {
  const share = softmaxOf(logits)[c];
  return {
    formula: `dlogits[${c}] = softmax(logits)[${c}] − ${target}`,
    lines: [
      `${doc.labels[c]}: e^${logits.text(c)} / Σ_j e^logits[j] = ${digits(share)}`,
      `${digits(share)} − ${target} = ${digits(share - target)}${text && `   (${text})`}`,
    ],
  };
}
