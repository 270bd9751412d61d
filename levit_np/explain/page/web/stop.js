"use strict";
// One operation: its position, formula, code and arrays, and how a chosen number was computed.

// The pictures that only some operations have, shown above their arrays.
const SPECIAL = {};

// The arrays of a stop, {name: number}, with the gradients of the chosen loss.
function placesOf(stop) {
  const places = { ...stop.in, ...stop.out };
  if (session.loss !== "kd" || !stop.kd) return places;
  for (const group of ["in", "out"])
    for (const name of Object.keys(stop[group]))
      if (name.startsWith("d") || !stop.op.endsWith("_backward")) {
        if (stop.kd[group][name] === undefined) delete places[name];
        else places[name] = stop.kd[group][name];
      }
  return places;
}

// A stop's position, name, formula and symbols.
function introduction(stop, direction, i) {
  const place = { n: i + 1, all: doc[direction].length, direction: t(direction) };
  const symbols = `symbols.${stop.op.replace("_backward", "")}`;
  const gradient = direction === "backward" ? ` ${t("symbols.gradient")}` : "";
  return [
    h("p", { class: "count" }, t("stopOf", place)),
    h("h1", { tabindex: -1 }, stopTitle(stop)),
    h("p", {}, t(`what.${stop.op}`)),
    stop.formula ? h("p", { class: "formula big" }, stop.formula) : null,
    symbols in language.table.en ? h("p", { class: "note" }, t(symbols), gradient) : null,
  ].filter(Boolean);
}

async function stopView(direction, i) {
  session.direction = direction;
  const stop = doc[direction][i];
  const places = placesOf(stop);
  const arrays = await tensors.all(places);
  const shown = (names) => Object.keys(names).filter((name) => arrays[name]);
  const [results, given] = [shown(stop.out), shown(stop.in)];
  const { choices } = address.read();
  const made = h("div", {});
  const panels = {};
  let chosen = results.includes(choices.get("name")) ? choices.get("name") : results[0];
  const explain = (name, index) => {
    chosen = name;
    address.choose({ name, at: index.join() });
    made.replaceChildren(madeOf(stop, arrays, name, index));
    SPECIAL[stop.op]?.onselect?.(name, index);
  };
  const choose = (name, index) => {
    panels[name].select(index);
    explain(name, index);
  };
  const special = await SPECIAL[stop.op]?.(stop, arrays, panels, choose);
  const result = (name) => {
    const at = name === chosen ? choices.get("at")?.split(",").map(Number) : undefined;
    const index = at ?? firstIndex(arrays[name]);
    const onselect = (cell) => explain(name, cell);
    const options = { name, place: places[name], title: t("result"), index, open: name === chosen, onselect };
    panels[name] = new Panel(arrays[name], options);
    const { element } = panels[name];
    element.addEventListener("toggle", () => element.open && name !== chosen && explain(name, panels[name].index));
    return element;
  };
  const input = (name) => {
    const index = firstIndex(arrays[name]);
    const options = { name, place: places[name], title: t("given"), index, open: FLOWING.includes(name) };
    panels[name] = new Panel(arrays[name], options);
    panels[name].element.append(...makerLink(places[name], panels[name]));
    return panels[name].element;
  };
  const partly = Object.values(arrays).some((tensor) => tensor.leftOut.length);
  const numbers = h("div", {}, special ?? null, partly ? h("p", { class: "note" }, t("howToSeeAll")) : null);
  if (results.length) numbers.append(h("h2", {}, t("results")), ...results.map(result), made);
  if ("loss" in stop.with) numbers.append(h("p", { class: "computed" }, lossLine(stop.with)));
  if (given.length) numbers.append(h("h2", {}, t("inputs")), ...given.map(input));
  if (chosen) explain(chosen, panels[chosen].index);
  const columns = h("div", { class: "columns" }, numbers, codeBox(stop));
  return h("div", { class: "stop" }, introduction(stop, direction, i), columns);
}

const lossLine = ({ loss, labelled, taught }) =>
  `loss = ${labelled === undefined ? "" : `(${digits(labelled)} + ${digits(taught)}) / 2 = `}${digits(loss)}`;

// For an array with a number per class, the loss's class; otherwise the panel's own choice.
const firstIndex = (tensor) =>
  tensor.layout === "vector" && tensor.shape[0] === doc.labels.length ? [doc.target] : undefined;

// The inputs that are open at first: activations (or gradients) and weights.
const FLOWING = ["x", "dy", "w", "head", "head_dist", "branch"];

// A link to the stop that computed an input, at the same cell.
function makerLink(place, panel) {
  if (!makers.has(place)) return [];
  const [direction, i, name] = makers.get(place);
  const maker = doc[direction][i];
  const href = () => address.to(`${direction}/${i}`, { name, at: panel.index.join() });
  const title = [...lineage(maker.layer).slice(0, -1).map(titleOf), stopTitle(maker)].join(" › ");
  const follow = (event) => event.currentTarget.setAttribute("href", href());
  return [h("p", {}, h("a", { href: href(), onclick: follow }, t("madeAt", { stop: title })))];
}
