"use strict";
// A stage, a block or a layer: what it is made of, in the order of computation, each part with its picture and cost.

async function layerView(name) {
  const cost = costOf(name),
    backward = session.direction === "backward";
  const view = h("div", {}, h("h1", { tabindex: -1 }, fullTitle(name)), h("p", {}, t(`about.${kindOf(name)}`)));
  view.append(h("p", { class: "cost" }, t("costs", { macs: number(cost.macs), parameters: number(cost.parameters) })));
  const children = childrenOf(name);
  if (children.length > 1)
    view.append(
      h("h2", {}, t("madeOfParts")),
      h("ol", { class: "flow" }, await Promise.all(children.map((child) => flowItem(child)))),
    );
  const stops = stopsWithin(name, session.direction);
  view.append(
    h("h2", {}, t(backward ? "stopsBack" : "stopsForward", { n: stops.length })),
    h(
      "ol",
      { class: "stops" },
      stops.slice(0, 60).map((i) => stopLink(i)),
    ),
  );
  if (stops.length > 60) view.append(h("p", { class: "note" }, t("moreStops", { n: stops.length - 60 })));
  return view;
}

function kindOf(name) {
  if (/^stages\.\d+$/.test(name)) return "stage";
  if (name.endsWith("downsample")) return "downsample";
  if (/blocks\.\d+$/.test(name)) return "block";
  return layersByName.get(name)?.kind ?? "layer";
}

// The direct parts of a layer, in the order of computation: layers by name, and operations of its own by their number.
function childrenOf(name) {
  const found = [];
  for (const i of stopsWithin(name)) {
    const line = lineage(doc.forward[i].layer),
      child = line[line.indexOf(name) + 1] ?? i;
    if (!found.includes(child)) found.push(child);
  }
  return found;
}

async function flowItem(child) {
  if (typeof child === "number")
    return h(
      "li",
      {},
      h("a", { href: address.to(`forward/${child}`) }, h("b", {}, opTitle(doc.forward[child].op))),
      h("code", {}, doc.forward[child].formula),
    );
  const name = child,
    stops = stopsWithin(name),
    cost = costOf(name),
    stop = doc.forward[stops.at(-1)],
    place = Object.values(stop.out)[0];
  const picture =
    place === undefined || doc.tensors[place].layout === "table"
      ? null
      : doc.tensors[place].layout === "pairs" || doc.tensors[place].layout === "heads"
        ? null
        : await energyCanvas(place, 64, t("energyLabel", { name: titleOf(name) }));
  const href = stops.length === 1 ? address.to(`forward/${stops[0]}`) : address.to(`layer/${name}`);
  return h(
    "li",
    {},
    h("a", { href }, picture, h("b", {}, titleOf(name))),
    place === undefined ? null : h("span", { class: "shape" }, times(doc.tensors[place].shape)),
    cost.macs
      ? h("span", { class: "cost" }, t("costs", { macs: short(cost.macs), parameters: short(cost.parameters) }))
      : null,
  );
}

function stopLink(i) {
  const stop = doc[session.direction][i];
  return h(
    "li",
    { value: i + 1 },
    h("a", { href: address.to(`${session.direction}/${i}`) }, stopTitle(stop)),
    " ",
    h("code", {}, stop.formula.split(/[:.] /)[0].slice(0, 90)),
  );
}

const opTitle = (op) => t(`op.${op}`);

// "Projection: linear map"; "Residual sum" alone says it all.
function stopTitle(stop) {
  const layer = titleOf(stop.layer),
    op = opTitle(stop.op);
  return layer.toLowerCase() === op.toLowerCase() || !stop.layer
    ? op[0].toUpperCase() + op.slice(1)
    : `${layer}${t("colon")}${op}`;
}
