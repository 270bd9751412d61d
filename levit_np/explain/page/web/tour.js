"use strict";
// A first visit: sixteen stops, each a place in the page and a few sentences (text.*.js: tour.0 … tour.15).

function tourStops() {
  const op = (name, within = "", last = false) => {
    const found = doc.forward.flatMap((stop, i) => (stop.op === name && isWithin(stop.layer, within) ? [i] : []));
    return last ? found.at(-1) : found[0];
  };
  const back = (name, within = "") =>
    doc.backward.findIndex((stop) => stop.op === name && isWithin(stop.layer, within));
  const first = "stages.0.blocks.0",
    shrink = doc.model.config.stages.length > 1 ? "stages.1.downsample" : first;
  const activation = op("hardswish") ?? op("silu") ?? 0;
  return [
    "",
    `forward/${op("convolution") ?? 0}`,
    `forward/${op("normalize") ?? op("layer_norm") ?? 0}`,
    `forward/${activation}`,
    "layer/stages.0",
    `layer/${first}`,
    `forward/${op("linear", `${first}.attention`)}`,
    `forward/${op("attention", first)}`,
    `forward/${op("gather_bias", first) ?? op("attention", first)}`,
    `forward/${op("linear", `${first}.mlp`)}`,
    `forward/${op("attention", shrink)}`,
    `forward/${op("average_pool") ?? op("first_token")}`,
    "answer",
    "answer?at=why",
    `backward/0`,
    `backward/${back("attention_backward", first)}`,
    `backward/${doc.backward.length - 1}`,
  ];
}

const tour = {
  at: null,
  start() {
    this.go(0);
  },
  go(i) {
    const stops = tourStops();
    if (i < 0 || i >= stops.length) {
      this.leave();
      return;
    }
    this.at = i;
    address.go(`#/${stops[i]}`);
    this.show();
  },
  leave() {
    this.at = null;
    this.show();
    document.querySelector("h1")?.focus();
  },
  show() {
    const place = document.getElementById("tour"),
      all = tourStops().length;
    if (this.at === null) {
      place.replaceChildren();
      place.hidden = true;
      return;
    }
    place.hidden = false;
    place.replaceChildren(
      h("p", { class: "count" }, t("tourCount", { n: this.at + 1, all })),
      h("p", { tabindex: -1, id: "tourtext" }, t(`tour.${this.at}`)),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", disabled: this.at === 0, onclick: () => this.go(this.at - 1) }, t("before")),
        h(
          "button",
          { type: "button", class: "main", onclick: () => this.go(this.at + 1) },
          this.at + 1 < all ? t("further") : t("finish"),
        ),
        h("button", { type: "button", onclick: () => this.leave() }, t("leaveTour")),
      ),
    );
    document.getElementById("tourtext").focus({ preventScroll: true });
  },
};
