"use strict";
// The network's parts by name: titles, parents and children, and the stop that computed an array.

// "stages.0.blocks.1.mlp" -> ["stages.0", "stages.0.blocks.1", "stages.0.blocks.1.mlp"]: a number belongs to the word
// before.
function lineage(name) {
  const words = name ? name.split(".") : [],
    found = [];
  words.forEach((word, i) => {
    if (!/^\d+$/.test(words[i + 1] ?? "")) found.push(words.slice(0, i + 1).join("."));
  });
  return found;
}

// The last part of a name, in words.
function titleOf(name) {
  if (!name) return doc.model.name;
  const words = name.split("."),
    last = words.at(-1);
  if (/^\d+$/.test(last)) return t(`part.${words.at(-2)}`, { n: Number(last) + 1 });
  return t(`part.${{ LayerNorm: "norm", ChannelBias: "beta" }[layersByName.get(name)?.kind] ?? last}`);
}

// The values of placeholders that depend on the network: {activation}, {ratio}, …
function wordsFor(name = "") {
  const { config } = doc.model;
  const batch = config.normalization === "batch";
  const [, kernel, stride] = config.stem[/^stem\.convolutions\.\d+$/.test(name) ? name.split(".").at(-1) : 0];
  return {
    activation: t(`op.${/\.attention(\.|$)/.test(name) ? config.attention_activation : config.activation}`),
    ratio: config.mlp_ratio,
    kernel,
    stride,
    norm: t(batch ? "part.bn" : "part.norm"),
    shift: batch ? t("part.bn") : t("op.add_beta"),
    bias: config.position === "bias" ? " + B" : "",
    pooled: t(config.pooling === "token" ? "pooledToken" : "pooledMean"),
  };
}

const fullTitle = (name) => lineage(name).map(titleOf).join(" › ") || doc.model.name;
const layersByName = new Map(doc.layers.map((layer) => [layer.name, layer]));
const isWithin = (name, whole) => !whole || name === whole || name.startsWith(`${whole}.`);

// The numbers (places in doc.forward or doc.backward) of the stops within a layer.
const stopsWithin = (name, direction = "forward") =>
  doc[direction].flatMap((stop, i) => (isWithin(stop.layer, name) && isOnTheWay(stop) ? [i] : []));

// Each loss has its own stops, which are skipped in the other loss's walk.
const isOnTheWay = (stop) => !stop.only || stop.only === session.loss;

// The number of the stop that undoes a stop, or that it undoes; -1 if there is none.
function counterpart(stop, direction) {
  const op = direction === "backward" ? `${stop.op}_backward` : stop.op.replace(/_backward$/, "");
  const found = (fits) => doc[direction].findIndex((s) => s.layer === stop.layer && isOnTheWay(s) && fits(s));
  const same = found((s) => s.op === op);
  return same < 0 ? found(() => true) : same;
}

// Parameters and multiply-adds of a layer, including its sub-layers.
function costOf(name) {
  const cost = { parameters: 0, macs: 0 };
  for (const layer of doc.layers)
    if (isWithin(layer.name, name)) {
      cost.parameters += layer.parameters;
      cost.macs += layer.macs;
    }
  return cost;
}

// tensor number -> [direction, stop, name] of the stop that computed it.
const makers = new Map();
for (const direction of ["forward", "backward"])
  doc[direction].forEach((stop, i) => {
    for (const [name, place] of [...Object.entries(stop.out), ...Object.entries(stop.kd?.out ?? {})])
      if (!makers.has(place)) makers.set(place, [direction, i, name]);
  });

// The steps of the overview: the image, each convolution, each block, pooling, the heads.
function units() {
  const { config, resolutions } = doc.model,
    found = [];
  let [height, width] = config.image_size;
  found.push({
    name: "image",
    title: t("image"),
    shape: [config.in_channels, height, width],
    tensor: doc.x,
    href: address.to("forward/0"),
  });
  const last = (name) => {
    const stops = stopsWithin(name);
    const stop = doc.forward[stops.at(-1)];
    return Object.values(stop.out)[0];
  };
  config.stem.forEach((_, i) => {
    const name = `stem.convolutions.${i}`,
      layer = layersByName.get(name);
    found.push({
      name,
      title: titleOf(name),
      shape: layer.shape,
      tensor: last(name),
      href: address.to(`layer/${name}`),
      group: "stem",
    });
  });
  config.stages.forEach((stage, s) => {
    const blocks = [...(s ? ["downsample"] : []), ...range(stage.depth).map((i) => `blocks.${i}`)];
    for (const block of blocks) {
      const name = `stages.${s}.${block}`;
      found.push({
        name,
        title: titleOf(name),
        shape: [stage.channels, ...resolutions[s]],
        tensor: last(name),
        href: address.to(`layer/${name}`),
        group: `stages.${s}`,
      });
    }
  });
  const pool = doc.forward.findIndex((stop) => stop.op === "average_pool" || stop.op === "first_token");
  const pooling = config.pooling === "token" ? "token" : "pool";
  found.push({
    name: pooling,
    title: t(`part.${pooling}`),
    shape: [config.stages.at(-1).channels],
    href: address.to(`forward/${pool}`),
    group: "heads",
  });
  for (const name of ["head", "head_dist"])
    if (layersByName.has(name))
      found.push({
        name,
        title: titleOf(name),
        shape: [config.num_classes],
        href: address.to(`layer/${name}`),
        group: "heads",
      });
  return found.map((unit) => ({
    ...unit,
    ...(["image", pooling].includes(unit.name) ? { parameters: 0, macs: 0 } : costOf(unit.name)),
  }));
}

// A picture of an activation: at each pixel the mean absolute value of the first 16 channels on this page.
async function energyCanvas(place, size, label) {
  const tensor = await tensors.get(place),
    { rows: all, columns, choices, index, before = 0 } = plan(tensor),
    rows = all - before; // a class token is no pixel
  if (tensor.layout === "vector") return null;
  const channels = tensor.there(choices.at(-1)).slice(0, 16);
  const value = (r, c) =>
    channels.reduce((s, k) => s + Math.abs(tensor.at(...index([k], before + r, c))), 0) / channels.length;
  const values = range(rows).flatMap((r) => range(columns).map((c) => value(r, c))),
    low = Math.min(...values),
    high = Math.max(...values),
    spread = Math.max(high - low, 0.02 * high) || 1; // what is nearly the same everywhere looks so
  return mapCanvas(rows, columns, (r, c) => (values[r * columns + c] - low) / spread, {
    size,
    label,
    signed: false,
    largest: 1,
  });
}
