"use strict";
// One operation: where it stands, its formula, its code, its arrays, and where a chosen number comes from.

// The pictures that only some operations have, shown above their arrays.
const SPECIAL = {};

// The arrays of a stop, {name: number}, with the gradients of the loss that is chosen.
function placesOf(stop) {
  const places = { ...stop.in, ...stop.out };
  if (session.loss !== "kd" || !stop.kd) return places;
  for (const group of ["in", "out"])
    for (const name of Object.keys(stop[group]))
      if (name.startsWith("d")) {
        if (stop.kd[group][name] === undefined) delete places[name];
        else places[name] = stop.kd[group][name];
      }
  return places;
}

async function stopView(direction, i) {
  session.direction = direction;
  const stop = doc[direction][i],
    places = placesOf(stop),
    arrays = await tensors.all(places);
  const { choices } = address.read(),
    results = Object.keys(stop.out).filter((name) => arrays[name]);
  const view = h("div", { class: "stop" });
  view.append(
    h("p", { class: "count" }, t("stopOf", { n: i + 1, all: doc[direction].length, direction: t(direction) })),
    h("h1", { tabindex: -1 }, stopTitle(stop)),
    h("p", {}, t(`what.${stop.op}`)),
  );
  if (stop.formula) view.append(h("p", { class: "formula big" }, stop.formula));
  const symbols = `symbols.${stop.op.replace("_backward", "")}`;
  if (symbols in language.table.en)
    view.append(h("p", { class: "note" }, t(symbols), direction === "backward" ? ` ${t("symbols.gradient")}` : ""));
  const made = h("div", { class: "madeholder" });
  let chosen = choices.get("name");
  if (!results.includes(chosen)) chosen = results[0];
  const panels = {},
    explain = (name, index) => {
      address.choose({ name, at: index.join() });
      made.replaceChildren(madeOf(stop, arrays, name, index));
      SPECIAL[stop.op]?.onselect?.(name, index);
    };
  const at = choices.get("at")?.split(",").map(Number);
  const panel = (name, result) => {
    const maker = makers.get(places[name]);
    panels[name] = new Panel(arrays[name], {
      name,
      place: places[name],
      title: t(result ? "result" : "given"),
      index:
        name === chosen && at
          ? at
          : arrays[name].layout === "vector" && arrays[name].shape[0] === doc.labels.length
            ? [doc.target]
            : undefined,
      open: result ? name === chosen : isMain(name),
      onselect: (index) => result && explain(name, index),
    });
    if (!result && maker)
      panels[name].element.append(
        h(
          "p",
          {},
          h(
            "a",
            {
              href: address.to(`${maker[0]}/${maker[1]}`, { name: maker[2], at: panels[name].index.join() }),
              onclick: (event) => {
                event.currentTarget.href = address.to(`${maker[0]}/${maker[1]}`, {
                  name: maker[2],
                  at: panels[name].index.join(),
                });
              },
            },
            t("madeAt", {
              stop: [
                lineage(doc[maker[0]][maker[1]].layer).slice(0, -1).map(titleOf),
                stopTitle(doc[maker[0]][maker[1]]),
              ]
                .flat()
                .join(" › "),
            }),
          ),
        ),
      );
    return panels[name].element;
  };
  const given = Object.keys(stop.in).filter((name) => arrays[name]);
  const numbers = h("div", { class: "numbersside" });
  const special = SPECIAL[stop.op]
    ? await SPECIAL[stop.op](stop, arrays, panels, (name, index) => {
        panels[name].select(index);
        explain(name, index);
      })
    : null;
  if (special) numbers.append(special);
  if (results.length) numbers.append(h("h2", {}, t("results")), ...results.map((name) => panel(name, true)), made);
  for (const [name, value] of Object.entries(stop.with))
    if (name === "loss") numbers.append(h("p", { class: "computed" }, `loss = ${digits(value)}`));
  if (given.length) numbers.append(h("h2", {}, t("inputs")), ...given.map((name) => panel(name, false)));
  view.append(h("div", { class: "columns" }, numbers, codeBox(stop)));
  if (chosen) {
    explain(chosen, panels[chosen].index);
    for (const name of results)
      panels[name].element.addEventListener("toggle", () => {
        if (panels[name].element.open && name !== chosen) {
          chosen = name;
          explain(name, panels[name].index);
        }
      });
  }
  return view;
}

// Which inputs are open from the start: what flows, not the parameters.
const isMain = (name) => ["x", "dy", "w", "head", "head_dist", "branch"].includes(name);
