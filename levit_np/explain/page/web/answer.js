"use strict";
// The answer: the two heads, their average and the top five; and why: what the logits of two classes depend on.

async function answerView() {
  const heads = await Promise.all(doc.heads.map((place) => tensors.get(place))),
    logits = await tensors.get(doc.logits);
  const shares = softmaxOf(logits),
    each = heads.map(softmaxOf);
  const view = h(
    "div",
    {},
    h("h1", { tabindex: -1 }, t("answerTitle")),
    h("p", {}, t(heads.length > 1 ? "answerIntro" : "answerIntroOne")),
  );
  const shown = [...new Set([...doc.top, doc.target, ...doc.why])];
  view.append(
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": t("answerTitle") },
      h(
        "table",
        { class: "terms" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            [
              t("class"),
              ...(heads.length > 1 ? [t("part.head"), t("part.head_dist"), t("average")] : [t("part.head")]),
              t("probability"),
            ].map((x) => h("th", { scope: "col" }, x)),
            h("td"),
          ),
        ),
        h(
          "tbody",
          {},
          shown.map((c) =>
            h(
              "tr",
              { class: c === doc.target ? "chosen" : "" },
              h("th", { scope: "row" }, `${doc.labels[c]} (${c})`),
              ...(heads.length > 1 ? heads.map((head) => h("td", {}, head.text(c))) : []),
              h("td", {}, h("b", { "data-tensor": doc.logits, "data-index": c }, logits.text(c))),
              h("td", {}, percent(shares[c])),
              h("td", { class: "bars" }, bar(shares[c])),
            ),
          ),
        ),
      ),
    ),
  );
  if (heads.length > 1) {
    const c = doc.top[0];
    view.append(
      h(
        "p",
        { class: "computed" },
        `(${heads[0].text(c)} + ${inner(heads[1].text(c))}) / 2 = ${digits((heads[0].at(c) + heads[1].at(c)) / 2)}`,
      ),
      h("p", { class: "note" }, t("headsAgree", { a: doc.labels[best(each[0])], b: doc.labels[best(each[1])] })),
    );
  }
  view.append(h("h2", { id: "why" }, t("whyTitle")), h("p", {}, t("whyIntro")), await whyParts());
  return view;
}

const best = (values) => values.indexOf(Math.max(...values));

// The pictures of two chosen classes, side by side.
async function whyParts() {
  const { choices } = address.read();
  const chosen = ["one", "other"].map((key, i) => {
    const place = doc.why.indexOf(Number(choices.get(key) ?? NaN));
    return place < 0 ? Math.min(i, doc.why.length - 1) : place;
  });
  const pictures = h("div", {});
  const kept = {}; // the attention layer stays when a class is changed
  const draw = async () => pictures.replaceChildren(await whyPictures(chosen), await whyAttention(chosen, kept));
  const pick = (i) => (event) => {
    chosen[i] = Number(event.target.value);
    address.choose({ one: doc.why[chosen[0]], other: doc.why[chosen[1]] });
    draw();
  };
  const select = (label, i) =>
    h(
      "label",
      {},
      label,
      " ",
      h(
        "select",
        { onchange: pick(i) },
        doc.why.map((c, place) => h("option", { value: place, selected: place === chosen[i] }, doc.labels[c])),
      ),
    );
  await draw();
  return h("div", {}, h("div", { class: "choosers" }, select(t("compare"), 0), select(t("compareWith"), 1)), pictures);
}

// The gradients of two logits with respect to the image, and their difference.
async function whyPictures(chosen) {
  const maps = await Promise.all(chosen.map((place) => tensors.get(doc.saliency[place])));
  const names = chosen.map((place) => doc.labels[doc.why[place]]);
  const [, rows, columns] = maps[0].shape;
  const sizes = range(rows).flatMap((r) => range(columns).map((c) => Math.abs(maps[0].at(0, r, c))));
  const largest = sizes.sort((a, b) => a - b)[Math.floor(0.995 * sizes.length)] || 1; // a few would pale all others
  const figure = (caption, value, label) => {
    const options = { size: 200, signed: true, largest, label };
    return h("figure", {}, h("figcaption", {}, caption), mapCanvas(rows, columns, value, options));
  };
  const figures = names.map((name, i) =>
    figure(t("towards", { name }), (r, c) => maps[i].at(0, r, c), t("gradientOf", { name })),
  );
  if (chosen[0] !== chosen[1]) {
    const difference = t("difference", { a: names[0], b: names[1] });
    figures.push(figure(difference, (r, c) => maps[0].at(0, r, c) - maps[1].at(0, r, c), difference));
  } else figures.pop();
  const image = h("figure", {}, h("figcaption", {}, t("image")), await imageCanvas(200));
  return h("div", {}, h("div", { class: "row" }, image, figures), h("p", { class: "note" }, t("whyNote")));
}

// At each key, Σ over the queries of attention weight × its gradient: how a head's attention to it affected each class.
async function whyAttention(chosen, kept) {
  const names = Object.keys(doc.influence).reverse();
  kept.layer ??= names[0];
  const body = h("div", {});
  const select = h(
    "select",
    { onchange: () => draw(select.value) },
    names.map((name) => h("option", { value: name, selected: name === kept.layer }, fullTitle(name))),
  );
  const draw = async (name) => {
    kept.layer = name;
    const places = [...new Set(chosen)];
    const maps = await Promise.all(places.map((place) => tensors.get(doc.influence[name][place])));
    const [heads, keys] = maps[0].shape;
    const [rows, columns, before] = gridOf(keys);
    const largest = Math.max(...maps.flatMap((map) => map.extent).map(Math.abs));
    const figure = (map, n) => {
      const options = { size: 96, signed: true, largest, label: t("headN", { n }) };
      const picture = mapCanvas(rows, columns, (r, c) => map.at(n, before + r * columns + c), options);
      return h("figure", {}, picture, h("figcaption", {}, t("headN", { n })));
    };
    const towards = (map, i) => [
      h("h4", {}, t("towards", { name: doc.labels[doc.why[places[i]]] })),
      h(
        "div",
        { class: "row" },
        range(heads).map((n) => figure(map, n)),
      ),
    ];
    body.replaceChildren(...maps.flatMap(towards), legend(-largest, largest));
  };
  if (names.length) await draw(kept.layer);
  const layer = h("p", {}, h("label", {}, t("attentionLayer"), " ", select));
  return h("div", {}, h("h3", {}, t("whyMaps")), h("p", {}, t("whyMapsIntro")), layer, body);
}
