"use strict";
// Used by every view: the document, elements, the chosen language, and the address (which says what is shown).

const doc = JSON.parse(document.getElementById("document").textContent);
const language = { now: "en", table: {} }; // text.en.js and text.zh.js fill the table

// t("shape", {n: 3}) -> the text of that name in the chosen language, {n} replaced.
function t(key, values = {}) {
  const text = language.table[language.now][key] ?? language.table.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

// h("p", {class: "note", onclick: f}, "text", element, …) -> an element. null and false children are left out.
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (value !== undefined && value !== null && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}

// Settings stored between visits, if the browser allows storage for files.
const memory = {
  get(key) {
    try {
      return localStorage.getItem(`levit.${key}`);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(`levit.${key}`, value);
    } catch {
      /* a file opened privately */
    }
  },
};

// Decodes a text that the browser encoded as %E7%B1%BB; returns it unchanged if it was cut off in the middle.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// The address after "#": a path and choices, #/forward/17?at=3,0,5&head=2. It is stored here too: in a notebook's frame
// the browser does not allow changing it.
const address = {
  now: location.hash,
  read() {
    const [path, choices] = decoded(this.now.slice(1) || "/").split("?");
    return { path: path.split("/").filter(Boolean), choices: new URLSearchParams(choices || "") };
  },
  to(path, choices = {}) {
    const more = new URLSearchParams(choices).toString().replaceAll("%2C", ",");
    return `#/${path}${more ? `?${more}` : ""}`;
  },
  // Goes to another path.
  go(place) {
    this.now = place;
    this.record("pushState");
    show();
  },
  // Changes a choice on the same path, without a history entry: otherwise "back" would undo single arrow keys.
  choose(changes) {
    const { path, choices } = this.read();
    for (const [key, value] of Object.entries(changes)) value === null ? choices.delete(key) : choices.set(key, value);
    this.now = this.to(path.join("/"), Object.fromEntries(choices));
    clearTimeout(this.timer); // browsers allow few changes a second
    this.timer = setTimeout(() => this.record("replaceState"), 300);
  },
  record(how) {
    clearTimeout(this.timer);
    try {
      history[how](tour.at, "", this.now); // where the tour was: main.js
    } catch {
      /* a frame in a notebook */
    }
  },
};

const number = (n) => n.toLocaleString("en-US");
const times = (shape) => shape.join(" × ");
// A text that was typed or is in a link, as a whole number from 0 to most; 0 if it is not a number.
const wholeNumber = (text, most) => Math.min(most, Math.max(0, Math.round(Number(text)) || 0));
// 0 … n-1
const range = (n) => Array.from({ length: n }, (_, i) => i);

// 305108946 -> "305 M"
function short(n) {
  for (const [size, unit] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ])
    if (n >= size) return `${+(n / size).toPrecision(3)} ${unit}`;
  return String(n);
}
