"use strict";
// The answer: the two heads, their average, the top five; and why: what two classes' logits depend on.

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
        `(${heads[0].text(c)} + ${heads[1].text(c)}) / 2 = ${digits((heads[0].at(c) + heads[1].at(c)) / 2)}`,
      ),
      h("p", { class: "note" }, t("headsAgree", { a: doc.labels[best(each[0])], b: doc.labels[best(each[1])] })),
    );
  }
  view.append(
    h("h2", { id: "why" }, t("whyTitle")),
    h("p", {}, t("whyIntro")),
    await whyPictures(),
    h("h2", {}, t("whyMaps")),
    h("p", {}, t("whyMapsIntro")),
    await whyAttention(),
  );
  return view;
}

const best = (values) => values.indexOf(Math.max(...values));

// The gradient of a logit to the image, a number a pixel: the largest of the colours, with its sign.
async function saliency(which) {
  const dx = await tensors.get(doc.dx[which]),
    [channels, rows, columns] = dx.shape;
  const value = (r, c) => {
    let most = 0;
    for (let k = 0; k < channels; k++) {
      const v = dx.at(k, r, c);
      if (Math.abs(v) > Math.abs(most)) most = v;
    }
    return most;
  };
  const sizes = [];
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) sizes.push(Math.abs(value(r, c)));
  return { rows, columns, value, largest: sizes.sort((a, b) => a - b)[Math.floor(0.995 * sizes.length)] || 1 };
}

async function whyPictures() {
  const figures = [h("figure", {}, h("figcaption", {}, t("image")), await imageCanvas(200))],
    maps = [];
  for (const [i, c] of doc.why.entries()) {
    const map = await saliency(`why${i}`);
    maps.push(map);
    figures.push(
      h(
        "figure",
        {},
        h("figcaption", {}, t("towards", { name: doc.labels[c] })),
        mapCanvas(map.rows, map.columns, map.value, {
          size: 200,
          signed: true,
          largest: map.largest,
          label: t("gradientOf", { name: doc.labels[c] }),
        }),
      ),
    );
  }
  if (doc.why[0] !== doc.why[1])
    figures.push(
      h(
        "figure",
        {},
        h("figcaption", {}, t("difference", { a: doc.labels[doc.why[0]], b: doc.labels[doc.why[1]] })),
        mapCanvas(maps[0].rows, maps[0].columns, (r, c) => maps[0].value(r, c) - maps[1].value(r, c), {
          size: 200,
          signed: true,
          largest: maps[0].largest,
          label: t("difference", { a: doc.labels[doc.why[0]], b: doc.labels[doc.why[1]] }),
        }),
      ),
    );
  return h("div", {}, h("div", { class: "row" }, figures), h("p", { class: "note" }, t("whyNote")));
}

// For each attention: Σ over the queries of weight × gradient, at each key: what the head's looking there did for the class.
async function whyAttention() {
  const names = Object.keys(doc.maps).reverse(),
    body = h("div", {}),
    select = h(
      "select",
      { onchange: () => draw(select.value) },
      names.map((name) => h("option", { value: name }, fullTitle(name))),
    );
  const draw = async (name) => {
    const a = await attentionOf(name),
      maps = await Promise.all(doc.maps[name].map((place) => tensors.get(place))),
      queries = a.probabilities.there(1);
    const value = (map, head) =>
      range(a.keys).map((k) =>
        queries.reduce((s, q) => s + a.probabilities.at(head, q, k) * (map.at(head, q, k) ?? 0), 0),
      );
    const table = maps.map((map) => range(a.heads).map((head) => value(map, head))),
      largest = Math.max(...table.flat(2).map(Math.abs));
    body.replaceChildren(
      ...table.map((heads, i) =>
        h(
          "div",
          {},
          h("h3", {}, t("towards", { name: doc.labels[doc.why[i]] })),
          h(
            "div",
            { class: "row" },
            heads.map((values, head) =>
              h(
                "figure",
                {},
                mapCanvas(a.rows, a.columns, (r, c) => values[r * a.columns + c], {
                  size: 96,
                  signed: true,
                  largest,
                  label: t("headN", { n: head }),
                }),
                h("figcaption", {}, t("headN", { n: head })),
              ),
            ),
          ),
        ),
      ),
      legend(-largest, largest),
    );
  };
  if (names.length) await draw(names[0]);
  return h("div", {}, h("label", {}, t("attentionLayer"), " ", select), body);
}
