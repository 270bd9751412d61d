"use strict";
// A stage, a block or a layer: its parts in the order of computation, each with its picture and cost.

async function layerView(name) {
  const cost = costOf(name);
  const stops = stopsWithin(name, session.direction);
  const list = h(
    "div",
    {},
    h("h2", {}, t(session.direction === "backward" ? "stopsBack" : "stopsForward", { n: stops.length })),
    h("ol", { class: "stops" }, stops.slice(0, 60).map(stopLink)),
    stops.length > 60 ? h("p", { class: "note" }, t("moreStops", { n: stops.length - 60 })) : null,
  );
  const picture =
    kindOf(name) === "stage"
      ? h("ol", { class: "flow" }, await Promise.all(childrenOf(name).map(flowItem)))
      : await diagram(name);
  return h(
    "div",
    {},
    h("h1", { tabindex: -1 }, fullTitle(name)),
    h("p", {}, t(`about.${kindOf(name)}`, wordsFor(name))),
    h("p", { class: "cost" }, costText(cost)),
    h("div", { class: "columns even" }, h("div", {}, h("h2", {}, t("madeOfParts")), picture), list),
  );
}

// Parts that only add or move numbers have no multiply-adds.
const costText = ({ macs, parameters }) =>
  macs
    ? t("costs", { macs: number(macs), parameters: number(parameters) })
    : t("someParameters", { n: number(parameters) });

function kindOf(name) {
  if (/^stages\.\d+$/.test(name)) return "stage";
  if (name.endsWith("downsample")) return "downsample";
  if (/blocks\.\d+$/.test(name)) return "block";
  return layersByName.get(name)?.kind ?? "layer";
}

// The direct parts of a layer, in the order of computation.
const childrenOf = (name) => [
  ...new Set(
    stopsWithin(name).map((i) => {
      const line = lineage(doc.forward[i].layer);
      return line[line.indexOf(name) + 1];
    }),
  ),
];

async function flowItem(name) {
  const cost = costOf(name);
  const [place] = Object.values(doc.forward[stopsWithin(name).at(-1)].out);
  return h(
    "li",
    {},
    h(
      "a",
      { href: address.to(`layer/${name}`) },
      await energyCanvas(place, 64, t("energyLabel", { name: titleOf(name) })),
      h("b", {}, titleOf(name)),
    ),
    h("span", { class: "shape" }, times(doc.tensors[place].shape)),
    h("span", { class: "cost" }, t("costs", { macs: short(cost.macs), parameters: short(cost.parameters) })),
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

// "Projection: linear map"; but "Residual sum" needs no addition.
function stopTitle(stop) {
  const layer = titleOf(stop.layer),
    op = opTitle(stop.op);
  return layer.toLowerCase() === op.toLowerCase() || !stop.layer
    ? op[0].toUpperCase() + op.slice(1)
    : `${layer}${t("colon")}${op}`;
}
