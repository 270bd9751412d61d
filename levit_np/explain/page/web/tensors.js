"use strict";
// The numbers. Each array is decoded when it is first asked for; packing.py says how it was packed.

class Tensor {
  constructor(entry, numbers) {
    this.layout = entry.layout;
    this.shape = entry.shape;
    // A value is whole[i] · 10^exponents[i] or, without exponents, whole[i] · 10^exponent.
    this.exponent = entry.exponent;
    [this.whole, this.exponents] = numbers;
    // For each axis: index -> position among those on this page, or undefined.
    this.places = entry.kept.map((kept, axis) => {
      if (kept === null) return null;
      const indices = typeof kept === "number" ? range(kept) : kept;
      const places = new Map(indices.map((index, place) => [index, place]));
      return { indices, get: (index) => places.get(index), first: typeof kept === "number" };
    });
    const sizes = this.shape.map((size, axis) => (this.places[axis] ? this.places[axis].indices.length : size));
    this.strides = sizes.map((_, axis) => sizes.slice(axis + 1).reduce((a, b) => a * b, 1));
  }

  // The indices of an axis whose numbers are on this page.
  there(axis) {
    return this.places[axis] ? this.places[axis].indices : range(this.shape[axis]);
  }

  has(index) {
    return index.every(
      (i, axis) => i >= 0 && i < this.shape[axis] && (!this.places[axis] || this.places[axis].get(i) !== undefined),
    );
  }

  place(index) {
    let place = 0;
    for (let axis = 0; axis < index.length; axis++) {
      const i = this.places[axis] ? this.places[axis].get(index[axis]) : index[axis];
      if (i === undefined || i < 0) return -1;
      place += i * this.strides[axis];
    }
    return place;
  }

  // The value, rounded to the digits shown; undefined if it is not on this page.
  at(...index) {
    const place = this.place(index);
    return place < 0 ? undefined : this.value(place);
  }

  text(...index) {
    const place = this.place(index);
    return place < 0 ? "—" : decimalText(this.whole[place], this.exponentOf(place));
  }

  exponentOf(place) {
    return this.exponents ? this.exponents[place] : this.exponent;
  }

  value(place) {
    return fromDecimal(this.whole[place], this.exponentOf(place));
  }

  // [smallest, largest] of the values on this page.
  get extent() {
    if (this.cachedExtent) return this.cachedExtent;
    let low = Infinity,
      high = -Infinity;
    for (let place = 0; place < this.whole.length; place++) {
      const v = this.value(place);
      if (v < low) low = v;
      if (v > high) high = v;
    }
    return (this.cachedExtent = [low, high]);
  }

  // "channels 0–15 of 256": which part is on this page.
  get leftOut() {
    return this.places.flatMap((kept, axis) =>
      kept
        ? [
            t(kept.first ? "keptFirst" : "keptSome", {
              axis: t(`axis.${AXES[this.layout][axis]}`),
              last: kept.indices.at(-1),
              count: kept.indices.length,
              all: this.shape[axis],
            }),
          ]
        : [],
    );
  }
}

const AXES = {
  image: ["channel", "row", "column"],
  tokens: ["pixel", "channel"],
  heads: ["head", "pixel", "channel"],
  pairs: ["head", "query", "key"],
  filters: ["output", "input", "row", "column"],
  matrix: ["output", "input"],
  table: ["head", "offset"],
  vector: ["channel"],
};

// n · 10^exponent, with exactly the digits of n: 1234, -3 -> "1.234"; 12, -9 -> "1.2e-8".
function decimalText(n, exponent) {
  if (!Number.isFinite(n)) return String(n);
  if (exponent <= 0 && exponent >= -6) return (n / 10 ** -exponent).toFixed(-exponent);
  if (n === 0) return "0";
  const digits = String(Math.abs(n)),
    leading = digits.length - 1 + exponent;
  return `${n < 0 ? "-" : ""}${digits[0]}${digits.length > 1 ? `.${digits.slice(1)}` : ""}e${leading}`;
}

const fromDecimal = (n, exponent) =>
  exponent <= 0 && exponent >= -22 ? n / 10 ** -exponent : Number(decimalText(n, exponent));

const tensors = {
  decoded: new Map(),
  text: document.getElementById("numbers").textContent,

  // A promise of the Tensor of that number.
  get(place) {
    if (!this.decoded.has(place)) this.decoded.set(place, this.decode(doc.tensors[place]));
    return this.decoded.get(place);
  },

  // {name: number} -> {name: Tensor}
  async all(places) {
    const entries = Object.entries(places);
    const found = await Promise.all(entries.map(([, place]) => this.get(place)));
    return Object.fromEntries(entries.map(([name], i) => [name, found[i]]));
  },

  async decode(entry) {
    const text = atob(this.text.slice(entry.at[0], entry.at[0] + entry.at[1]));
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const count = planes.length / entry.width,
      whole = new Float64Array(count),
      step = 9 * 10 ** (entry.digits - 1);
    const exponents = entry.digits ? new Int16Array(count) : null;
    for (let i = 0; i < count; i++) {
      let code = 0;
      for (let plane = entry.width - 1; plane >= 0; plane--) code = code * 256 + planes[plane * count + i];
      if (code < 3) {
        whole[i] = [NaN, Infinity, -Infinity][code];
        continue;
      }
      const size = Math.floor((code - 2) / 2),
        sign = code % 2 ? 1 : -1;
      if (!exponents || size === 0) whole[i] = size && sign * size;
      else {
        whole[i] = sign * (((size - 1) % step) + 10 ** (entry.digits - 1));
        exponents[i] = entry.exponent + Math.floor((size - 1) / step);
      }
    }
    return new Tensor(entry, [whole, exponents]);
  },
};
