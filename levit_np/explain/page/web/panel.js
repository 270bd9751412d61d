"use strict";
// Displays one array: its channels as small pictures, the chosen one enlarged, and the numbers around a cell.

// (height, width) for a number of tokens: the resolution of a stage, else one row; and how many tokens
// come before the pixels': one, if there is a class token.
function gridOf(tokens) {
  const most = doc.model.config.pooling === "token" ? 1 : 0;
  for (const [height, width] of doc.model.resolutions) {
    const before = tokens - height * width;
    if (before >= 0 && before <= most) return [height, width, before];
  }
  return [1, tokens, 0];
}

// Tokens in rows and columns: the pixels in their grid, a class token alone in a row above them (elsewhere there: -1).
function tokenGrid(tokens) {
  const [height, columns, before] = gridOf(tokens);
  const token = (r, c) => (r >= before ? before + (r - before) * columns + c : c ? -1 : 0);
  const pixel = (n) => (n < before ? [0, 0] : [before + Math.floor((n - before) / columns), (n - before) % columns]);
  return { rows: before + height, columns, before, token, pixel };
}

// How an array is laid out as a picture: which axes are chosen (choices), and which index a pixel of it has.
function plan(tensor) {
  const [a, b, c] = tensor.shape;
  switch (tensor.layout) {
    case "image":
      return { choices: [0], rows: b, columns: c, index: ([k], r, col) => [k, r, col], pixel: (i) => [i[1], i[2]] };
    case "tokens": {
      const grid = tokenGrid(a);
      return { ...grid, choices: [1], index: ([k], r, col) => [grid.token(r, col), k], pixel: (i) => grid.pixel(i[0]) };
    }
    case "heads": {
      const grid = tokenGrid(b);
      const index = ([k, d], r, col) => [k, grid.token(r, col), d];
      return { ...grid, choices: [0, 2], index, pixel: (i) => grid.pixel(i[1]) };
    }
    case "pairs": {
      const grid = tokenGrid(c);
      const index = ([k, q], r, col) => [k, q, grid.token(r, col)];
      return { ...grid, choices: [0, 1], index, pixel: (i) => grid.pixel(i[2]) };
    }
    case "table": {
      const grid = tokenGrid(b);
      return { ...grid, choices: [0], index: ([k], r, col) => [k, grid.token(r, col)], pixel: (i) => grid.pixel(i[1]) };
    }
    case "filters":
      return {
        choices: [0, 1],
        rows: c,
        columns: tensor.shape[3],
        index: ([o, k], r, col) => [o, k, r, col],
        pixel: (i) => [i[2], i[3]],
      };
    case "matrix": {
      const outputs = tensor.there(0),
        inputs = tensor.there(1);
      return {
        choices: [],
        rows: outputs.length,
        columns: inputs.length,
        index: (_, r, col) => [outputs[r], inputs[col]],
        pixel: (i) => [outputs.indexOf(i[0]), inputs.indexOf(i[1])],
      };
    }
    default: {
      const columns = Math.min(16, a);
      return {
        choices: [],
        rows: Math.ceil(a / columns),
        columns,
        index: (_, r, col) => [r * columns + col],
        pixel: (i) => [Math.floor(i[0] / columns), i[0] % columns],
      };
    }
  }
}

// The index on this page nearest to the one asked for; by default the middle pixel of the first channel.
function nearest(tensor, index) {
  return tensor.shape.map((size, axis) => {
    const wanted = Math.min(size - 1, Math.max(0, index?.[axis] ?? middle(AXES[tensor.layout][axis], size))),
      there = tensor.there(axis);
    return there.includes(wanted)
      ? wanted
      : there.reduce((best, i) => (Math.abs(i - wanted) < Math.abs(best - wanted) ? i : best), there[0]);
  });
}

function middle(axis, size) {
  if (["row", "column"].includes(axis)) return Math.floor(size / 2);
  if (!["pixel", "query", "key"].includes(axis)) return 0;
  const [rows, columns, before] = gridOf(size);
  return before + Math.floor(rows / 2) * columns + Math.floor(columns / 2);
}

const SHEET = 24; // channels shown as small pictures

class Panel {
  // onselect(index) is called on every change; `name` is the array's name in the formula.
  constructor(tensor, { name, title, note, index, onselect, place, open = true, size = 180 }) {
    Object.assign(this, { tensor, name, onselect, place, size, plan: plan(tensor) });
    this.index = nearest(tensor, index);
    this.picture = h("div", { class: "picture" });
    this.cells = h("div", { class: "cells" });
    this.readout = h("p", { class: "readout", "aria-live": "polite" });
    this.choosers = this.plan.choices.map((axis) => this.chooser(axis));
    const what = h(
      "summary",
      {},
      h("b", { class: "symbol" }, name),
      " ",
      title,
      " ",
      h("span", { class: "shape" }, times(tensor.shape)),
    );
    this.element = h(
      "details",
      { class: "panel", open },
      what,
      note ? h("p", { class: "note" }, note) : null,
      tensor.leftOut.length ? h("p", { class: "note" }, t("leftOut", { what: tensor.leftOut.join("; ") })) : null,
      this.choosers.length
        ? h(
            "div",
            { class: "choosers" },
            this.choosers.map(([label]) => label),
          )
        : null,
      (this.sheet = h("div", { class: "sheet" })),
      h("div", { class: "zoom" }, this.picture, this.cells),
      this.readout,
    );
    this.drawSheet();
    this.show();
  }

  chooser(axis) {
    const input = h("input", {
      type: "number",
      min: 0,
      max: this.tensor.shape[axis] - 1,
      value: this.index[axis],
      onchange: () => {
        const asked = Number(input.value);
        this.select(
          this.index.map((i, a) => (a === axis ? asked : i)),
          true,
        );
        if (this.index[axis] !== asked)
          this.readout.prepend(t("notShown", { axis: t(`axis.${AXES[this.tensor.layout][axis]}`), asked }));
      },
    });
    const label = h("label", {}, t(`axis.${AXES[this.tensor.layout][axis]}`), " ", input);
    return [label, input, axis];
  }

  select(index, tell = false) {
    this.index = nearest(this.tensor, index);
    this.show();
    if (tell) this.onselect?.(this.index);
  }

  // The channels (of the chosen head) side by side.
  drawSheet() {
    const axis = this.plan.choices.at(-1);
    if (axis === undefined || this.tensor.layout === "pairs" || this.plan.rows * this.plan.columns < 4) return;
    const there = this.tensor.there(axis).slice(0, SHEET),
      size = this.plan.rows > 60 ? 56 : 40;
    this.sheet.replaceChildren(
      ...there.map((channel) => {
        const at = this.plan.choices.map((a) => (a === axis ? channel : this.index[a]));
        const canvas = mapCanvas(
          this.plan.rows,
          this.plan.columns,
          (r, c) => this.tensor.at(...this.plan.index(at, r, c)),
          { size, signed: this.tensor.extent[0] < 0 },
        );
        canvas.setAttribute("aria-hidden", "true");
        canvas.removeAttribute("role");
        return h(
          "button",
          {
            class: "thumb",
            type: "button",
            tabindex: -1,
            "aria-label": `${t(`axis.${AXES[this.tensor.layout][axis]}`)} ${channel}`,
            "data-channel": channel,
            onclick: () =>
              this.select(
                this.index.map((i, a) => (a === axis ? channel : i)),
                true,
              ),
          },
          canvas,
        );
      }),
    );
    this.sheetAxis = axis;
    this.sheetHead = this.plan.choices.length > 1 ? this.index[this.plan.choices[0]] : null;
  }

  show() {
    const { rows, columns } = this.plan,
      chosen = this.plan.choices.map((axis) => this.index[axis]);
    for (const [, input, axis] of this.choosers) input.value = this.index[axis];
    if (this.sheetHead !== null && this.plan.choices.length > 1 && this.sheetHead !== this.index[this.plan.choices[0]])
      this.drawSheet();
    for (const thumb of this.sheet.children)
      thumb.classList.toggle("chosen", Number(thumb.dataset.channel) === this.index[this.sheetAxis]);
    const value = (r, c) => {
      const index = this.plan.index(chosen, r, c);
      return this.tensor.has(index) ? this.tensor.at(...index) : undefined;
    };
    const [low, high] = this.tensor.extent,
      key = chosen.join();
    if (this.drawn !== key) {
      const canvas = mapCanvas(rows, columns, value, {
        size: this.size,
        signed: low < 0,
        largest: this.tensor.layout === "pairs" ? null : Math.max(Math.abs(low), Math.abs(high)),
        label: t("mapLabel", { name: this.name, low: digits(low, 3), high: digits(high, 3) }),
      });
      canvas.addEventListener("click", (event) => {
        const box = canvas.getBoundingClientRect();
        const r = Math.floor(((event.clientY - box.top) / box.height) * rows),
          c = Math.floor(((event.clientX - box.left) / box.width) * columns);
        this.select(this.plan.index(chosen, Math.min(rows - 1, r), Math.min(columns - 1, c)), true);
      });
      this.frame = h("span", { class: "frame", "aria-hidden": "true" });
      this.picture.replaceChildren(h("span", { class: "overlay" }, canvas, this.frame), legend(low, high));
      this.drawn = key;
    }
    this.window(chosen);
    this.readout.textContent = `${this.name}[${this.index.join(", ")}] = ${this.tensor.text(...this.index)}`;
  }

  // The numbers around the chosen cell, as a grid for the arrow keys.
  window(chosen) {
    const { rows, columns, before = 0 } = this.plan,
      [row, column] = this.plan.pixel(this.index);
    const wide = Math.min(columns, innerWidth < 480 ? 4 : 7),
      high = Math.min(rows, 7);
    const top = Math.min(rows - high, Math.max(0, row - Math.floor(high / 2)));
    const left = Math.min(columns - wide, Math.max(0, column - Math.floor(wide / 2)));
    const share = 100 / Math.max(rows, 1);
    Object.assign(this.frame.style, {
      top: `${top * share}%`,
      height: `${high * share}%`,
      left: `${(left * 100) / columns}%`,
      width: `${(wide * 100) / columns}%`,
    });
    const focused = this.cells.contains(document.activeElement);
    const body = range(high).map((i) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, top + i < before ? t("short.token") : String(top + i - before)),
        range(wide).map((j) => {
          const index = this.plan.index(chosen, top + i, left + j),
            here = top + i === row && left + j === column;
          return h(
            "td",
            {
              class: here ? "chosen" : "",
              tabindex: here ? 0 : -1,
              "data-tensor": this.place,
              "data-index": index.join(),
              "aria-selected": here ? "true" : "false",
            },
            this.tensor.has(index) ? this.tensor.text(...index) : "",
          );
        }),
      ),
    );
    const head = h(
      "tr",
      {},
      h("td", {}),
      range(wide).map((j) => h("th", { scope: "col" }, String(left + j))),
    );
    const table = h(
      "table",
      {
        role: "grid",
        class: "numbers",
        "aria-label": t("gridLabel", { name: this.name }),
        onclick: (event) => {
          const cell = event.target.closest("td[data-index]");
          if (cell) this.select(cell.dataset.index.split(",").map(Number), true);
        },
        onkeydown: (event) => this.key(event, row, column, chosen),
      },
      h("thead", {}, head),
      h("tbody", {}, body),
    );
    this.cells.replaceChildren(table);
    if (focused) table.querySelector("td.chosen")?.focus();
  }

  key(event, row, column, chosen) {
    const moves = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      Home: [0, -column],
      End: [0, this.plan.columns],
    };
    const move = moves[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const r = Math.min(this.plan.rows - 1, Math.max(0, row + move[0])),
      c = Math.min(this.plan.columns - 1, Math.max(0, column + move[1]));
    const index = this.plan.index(chosen, r, c);
    if (this.tensor.has(index)) this.select(index, true);
  }
}

// The scale of colours under a picture.
function legend(low, high) {
  const signed = low < 0,
    largest = Math.max(Math.abs(low), Math.abs(high));
  const canvas = mapCanvas(1, 33, (_, c) => (signed ? (c - 16) / 16 : c / 32), { size: 120, largest: 1, signed });
  canvas.style.height = "8px";
  canvas.setAttribute("aria-hidden", "true");
  canvas.removeAttribute("role");
  return h(
    "span",
    { class: "legend" },
    h("span", {}, signed ? digits(-largest, 2) : "0"),
    canvas,
    h("span", {}, digits(largest, 2)),
  );
}
