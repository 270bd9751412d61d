"use strict";
// A first visit: stops, each a place in the page and a few sentences (text.*.js: tour.0 …) with their words.

function tourStops() {
  const { config } = doc.model;
  const op = (name, within = "", last = false) => {
    const found = doc.forward.flatMap((stop, i) => (stop.op === name && isWithin(stop.layer, within) ? [i] : []));
    return last ? found.at(-1) : found[0];
  };
  const back = (name, within = "") =>
    doc.backward.findIndex((stop) => stop.op === name && isWithin(stop.layer, within));
  const first = "stages.0.blocks.0",
    biased = config.position === "bias";
  const words = { ...wordsFor(), bias: biased ? t("tour.bias") : "" };
  return [
    ["", "0"],
    [`forward/${op("convolution")}`, "1"],
    config.normalization === "batch" ? [`forward/${op("normalize")}`, "2"] : [`forward/${op("layer_norm")}`, "2.layer"],
    [`forward/${op(config.activation)}`, "3"],
    ["layer/stages.0", "4"],
    [`layer/${first}`, "5"],
    [`forward/${op("linear", `${first}.attention`)}`, "6"],
    [`forward/${op("attention", first)}`, "7"],
    biased && [`forward/${op("gather_bias", first)}`, "8"],
    [`forward/${op("linear", `${first}.mlp`)}`, "9"],
    config.stages.length > 1 && [`forward/${op("attention", "stages.1.downsample")}`, "10"],
    config.pooling === "token" ? [`forward/${op("first_token")}`, "11.token"] : [`forward/${op("average_pool")}`, "11"],
    ["answer", config.distillation ? "12" : "12.one"],
    ["answer?at=why", "13"],
    [`backward/0`, "14"],
    [`backward/${back("attention_backward", first)}`, "15"],
    [`backward/${doc.backward.length - 1}`, "16"],
  ]
    .filter(Boolean)
    .map((stop) => [...stop, words]);
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
    address.go(`#/${stops[i][0]}`);
    this.show();
  },
  leave() {
    this.at = null;
    this.show();
    document.querySelector("h1")?.focus();
  },
  show() {
    const place = document.getElementById("tour"),
      stops = tourStops(),
      all = stops.length;
    if (this.at === null) {
      place.replaceChildren();
      place.hidden = true;
      return;
    }
    place.hidden = false;
    const [, key, words] = stops[this.at];
    place.replaceChildren(
      h("p", { class: "count" }, t("tourCount", { n: this.at + 1, all })),
      h("p", { tabindex: -1, id: "tourtext" }, t(`tour.${key}`, words)),
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
