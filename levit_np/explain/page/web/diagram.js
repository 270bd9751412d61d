"use strict";
// A block or a layer as a diagram, after the paper's Figure 5: its operations from top to bottom, each a link to its
// stop.
// Backward the arrows point up, and the boxes lead to the gradients.

const DIAGRAM = { width: 396, middle: 190, wide: 190, high: 38, gap: 16, lanes: { q: 64, k: 190, v: 312 } };

async function diagram(name) {
  const drawing = new Diagram(name);
  const stops = stopsWithin(name);
  const first = Object.values(doc.forward[stops[0]].in)[0];
  drawing.end(t("input"), "x", first);
  if (stops.some((i) => doc.forward[i].layer === `${name}.residual`)) drawing.openFork();
  const attends = stops.some((i) => doc.forward[i].op === "attention");
  let open = null; // the layer of a group of boxes that is being drawn
  for (const [place, i] of stops.entries()) {
    const { op, layer } = doc.forward[i];
    const group = lineage(layer).find(
      (part) => part !== name && /\.(attention|mlp)$/.test(part) && isWithin(part, name),
    );
    if (group !== open) {
      drawing.closeGroup();
      if (group) drawing.openGroup(group, stops.slice(place));
      open = group;
    }
    if (op === "bias_index" && (attends || drawing.back)) continue;
    if (op === "gather_bias" && attends) drawing.bias = i;
    else if (op === "add") drawing.sum(i);
    else if (op === "attention") await drawing.attention(i);
    else if (attends && laneOf(doc.forward[i])) drawing.waiting.push(i);
    else await drawing.box(i);
  }
  drawing.closeGroup();
  drawing.end(t("output"), "y", Object.values(doc.forward[stops.at(-1)].out)[0]);
  return drawing.element();
}

// The branch of a stop in a shrinking attention, whose queries and keys come from different pixels: "q", "kv" or "".
function laneOf({ op, layer, out }) {
  const within = layer.match(/\.attention\.(kv|q)(?:\.|$)/);
  if (within) return within[1];
  if (op === "subsample") return "q";
  if (op !== "split_heads" || (out.q !== undefined && out.k !== undefined)) return "";
  return out.q === undefined ? "kv" : "q";
}

class Diagram {
  constructor(name) {
    const { middle } = DIAGRAM;
    Object.assign(this, {
      name,
      y: 6,
      at: { x: middle, y: 6 },
      arrows: [],
      boxes: [],
      groups: [],
      waiting: [],
      bias: null,
    });
    this.back = session.direction === "backward";
  }

  // The input or the output of the diagram: text in a rounded frame.
  end(title, letter, place) {
    const { middle, wide } = DIAGRAM;
    if (this.boxes.length) this.arrow(this.at.x, this.at.y, middle, this.y);
    const shape = place === undefined ? "" : times(doc.tensors[place].shape);
    this.boxes.push(
      svg("rect", { x: middle - wide / 2, y: this.y, width: wide, height: 24, rx: 12, class: "end" }),
      svg(
        "text",
        { x: middle, y: this.y + 16, class: "middle" },
        `${title} ${this.back ? "d" : ""}${letter}  ${shape}`,
      ),
    );
    this.y += 24;
    this.at = { x: middle, y: this.y };
    this.y += DIAGRAM.gap;
  }

  // One operation, below the last one.
  async box(i) {
    const { middle, wide, high, gap } = DIAGRAM;
    await this.draw(middle, this.y, wide, this.about(i));
    this.arrow(this.at.x, this.at.y, middle, this.y);
    this.at = { x: middle, y: this.y + high };
    this.y += high + gap;
  }

  // The text of a stop's box, and its link: forward to the stop, backward to the stop that undoes it.
  about(i, more = {}) {
    const stop = doc.forward[i];
    const back = counterpart(stop, "backward");
    const shown = this.back ? doc.backward[back] : stop;
    const place = this.back ? (shown.out[more.backward ?? "dx"] ?? shown.out.dx) : Object.values(shown.out)[0];
    const choices = more.array ? { name: this.back ? more.backward : more.array } : {};
    return {
      title: more.title ?? shortTitle(stop),
      place: more.array && !this.back ? stop.out[more.array] : place,
      href: this.back ? address.to(`backward/${back}`, choices) : address.to(`forward/${i}`, choices),
      label: this.back ? stopTitle(shown) : `${stopTitle(stop)}${t("colon")}${stop.formula}`,
    };
  }

  async draw(x, y, wide, { title, place, href, label }) {
    const { high } = DIAGRAM;
    const tensor = doc.tensors[place];
    const left = x - wide / 2;
    const drawn = wide > 160 && tensor && ["image", "tokens"].includes(tensor.layout);
    const from = drawn ? { x: left + 40 } : { x, class: "middle" };
    const box = svg(
      "a",
      { href, class: "box" },
      svg("title", {}, label),
      svg("rect", { x: left, y, width: wide, height: high, rx: 5 }),
      svg("text", { ...from, y: y + 16 }, title),
      svg("text", { ...from, y: y + 30, class: drawn ? "shape" : "shape middle" }, tensor ? times(tensor.shape) : ""),
    );
    if (drawn) {
      const picture = await energyCanvas(place, 30, "");
      if (picture) {
        picture.setAttribute("aria-hidden", "true");
        picture.removeAttribute("role");
        box.append(svg("foreignObject", { x: left + 4, y: y + 4, width: 32, height: 32 }, picture));
      }
    }
    this.boxes.push(box);
  }

  // Equation 1: Q, K and V, their product, the bias, the softmax, the weighted sum of V.
  async attention(i) {
    const { middle, wide, high, gap, lanes } = DIAGRAM;
    const ends = this.waiting.length ? await this.branches() : { q: this.at, k: this.at, v: this.at };
    const splits = doc.forward.flatMap((stop, n) =>
      stop.op === "split_heads" && stop.layer === doc.forward[i].layer ? [n] : [],
    );
    const top = this.y;
    for (const [part, x] of Object.entries(lanes)) {
      const split = splits.find((n) => doc.forward[n].out[part] !== undefined);
      const { formula, out } = doc.forward[split];
      const back = counterpart(doc.forward[i], "backward");
      const place = this.back ? doc.backward[back].out[`d${part}`] : out[part];
      const href = this.back
        ? address.to(`backward/${back}`, { name: `d${part}` })
        : address.to(`forward/${split}`, { name: part });
      const title = t(`lane.${part}`);
      await this.draw(x, top, 108, { title, place, href, label: `${title}${t("colon")}${formula}` });
      this.turn(ends[part], { x, y: top });
    }
    this.y += high + gap;
    this.turn({ x: lanes.q, y: top + high }, { x: middle - 50, y: this.y });
    this.turn({ x: lanes.k, y: top + high }, { x: lanes.k, y: this.y });
    const scores = { array: "probabilities", backward: "dbias" };
    await this.draw(middle, this.y, wide, this.about(i, { ...scores, title: "Q Kᵀ / √D" }));
    this.at = { x: middle, y: this.y + high };
    this.y += high + gap;
    if (this.bias !== null) await this.addBias(i);
    await this.draw(middle, this.y, wide, this.about(i, { ...scores, title: "softmax" }));
    this.arrow(this.at.x, this.at.y, middle, this.y);
    this.y += high + gap;
    const values = { array: "y", backward: "dv", title: t("weightsTimesV") };
    await this.draw(middle, this.y, wide, this.about(i, values));
    this.arrow(middle, this.y - gap, middle, this.y);
    this.arrow(lanes.v, top + high, lanes.v, this.y + high / 2, middle + wide / 2, this.y + high / 2);
    this.at = { x: middle, y: this.y + high };
    this.y += high + gap;
  }

  // The two branches of a shrinking attention, side by side, ending at the same height.
  async branches() {
    const { high, gap } = DIAGRAM;
    const ways = { q: { x: 64, wide: 118 }, kv: { x: 251, wide: 190 } };
    const members = Object.fromEntries(
      Object.keys(ways).map((way) => [way, this.waiting.filter((i) => laneOf(doc.forward[i]) === way)]),
    );
    const most = Math.max(members.q.length, members.kv.length);
    const [start, top] = [this.at, this.y];
    for (const [way, list] of Object.entries(members)) {
      const { x, wide } = ways[way];
      let from = start;
      for (const [place, i] of list.entries()) {
        const y = top + (most - list.length + place) * (high + gap);
        await this.draw(x, y, wide, this.about(i));
        this.turn(from, { x, y });
        from = { x, y: y + high };
      }
    }
    this.waiting = [];
    this.y = top + most * (high + gap);
    const [q, kv] = ["q", "kv"].map((way) => ({ x: ways[way].x, y: this.y - gap }));
    return { q, k: kv, v: kv };
  }

  // An arrow from B, on the left, into a sum.
  async addBias(i) {
    const { middle, high, gap } = DIAGRAM;
    const y = this.y + high / 2;
    const { href, label } = this.about(this.bias);
    const place = doc.forward[this.bias].in.table;
    await this.draw(64, this.y, 108, { title: t("lane.b"), place, href, label });
    this.arrow(118, y, middle - 11, y);
    this.circle(y, this.about(i, { array: "probabilities", backward: "dbias" }));
    this.y += high + gap;
    this.bias = null;
  }

  // A residual's sum; its direct path runs on the right, from where its group of boxes began.
  sum(i) {
    const { middle, width } = DIAGRAM;
    const y = this.y + 11;
    this.circle(y, this.about(i));
    const right = width - 8;
    if (this.fork !== undefined) this.arrow(middle, this.fork, right, this.fork, right, y, middle + 11, y);
    this.y += 22 + DIAGRAM.gap;
  }

  circle(y, { href, label }) {
    const { middle } = DIAGRAM;
    this.arrow(middle, this.at.y, middle, y - 11);
    this.boxes.push(
      svg(
        "a",
        { href, class: "box" },
        svg("title", {}, label),
        svg("circle", { cx: middle, cy: y, r: 11 }),
        svg("text", { x: middle, y: y + 5, class: "plus" }, "+"),
      ),
    );
    this.at = { x: middle, y: y + 11 };
  }

  openFork() {
    this.fork = this.at.y + 8;
    this.y += 8;
  }

  // A frame around the boxes of a part, with its name, and space before it if a residual branches off there.
  openGroup(layer, stops) {
    const start = this.at.y + (this.groups.length ? 6 : 0);
    const forks = stops.some((i) => doc.forward[i].layer === `${layer}.residual`);
    this.fork = forks ? start + 8 : undefined;
    const y = start + (forks ? 15 : 8);
    this.group = { layer, y };
    this.y = y + (laneOf(doc.forward[stops[0]]) ? 36 : 12); // two ways leave no room beside them for the name
  }

  closeGroup() {
    if (!this.group) return;
    const { layer, y } = this.group;
    const high = this.at.y + 6 - y;
    const name = svg("text", { x: 10, y: y + 18 }, titleOf(layer));
    this.groups.push(
      svg("rect", { x: 2, y, width: DIAGRAM.width - 24, height: high, rx: 8, class: "group" }),
      svg("a", { href: address.to(`layer/${layer}`), class: "grouplink" }, name),
    );
    this.y = this.at.y + 6 + DIAGRAM.gap;
    this.group = null;
  }

  // Down, across, and down again.
  turn(from, to) {
    const between = to.y - DIAGRAM.gap / 2;
    const across = from.x === to.x ? [] : [from.x, between, to.x, between];
    this.arrow(from.x, from.y, ...across, to.x, to.y);
  }

  // A line through these points (x, y, x, y, …) with an arrowhead at its end, or backward at its start.
  arrow(...numbers) {
    const points = range(numbers.length / 2).map((i) => [numbers[2 * i], numbers[2 * i + 1]]);
    if (this.back) points.reverse();
    const [[x0, y0], [x, y]] = points.slice(-2);
    const [dx, dy] = [Math.sign(x - x0), Math.sign(y - y0)];
    const corner = (side) => `${x - 6 * dx + side * dy},${y - 6 * dy + side * dx}`;
    this.arrows.push(
      svg("path", { d: `M${points.join(" L")}`, class: "arrow" }),
      svg("polygon", { points: `${x},${y} ${corner(4)} ${corner(-4)}`, class: "head" }),
    );
  }

  element() {
    const high = this.y - DIAGRAM.gap + 6;
    const label = t(this.back ? "diagramBack" : "diagramForward", { name: fullTitle(this.name) });
    const drawing = svg("svg", {
      viewBox: `0 0 ${DIAGRAM.width} ${high}`,
      class: this.back ? "diagram backward" : "diagram",
      role: "group",
      "aria-label": label,
    });
    drawing.append(...this.groups, ...this.arrows, ...this.boxes);
    const notes = [t(this.back ? "diagramBackNote" : "diagramNote"), this.fork === undefined ? "" : t("residualNote")];
    return h("div", {}, h("p", { class: "note" }, notes.join(" ")), drawing);
  }
}

// The name in a box, such as BN; for a linear map, with its layer.
function shortTitle(stop) {
  if (stop.op === "normalize") return t("part.bn");
  if (stop.op === "convolution") return titleOf(stop.layer);
  if (stop.op === "linear") return stopTitle(stop);
  const title = opTitle(stop.op);
  return title[0].toUpperCase() + title.slice(1);
}
