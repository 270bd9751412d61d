"use strict";
// The frame around the views: which one is shown, the controls, the keyboard.

const session = { direction: "forward", loss: "ce", keys: memory.get("keys") !== "off" };

const KEYS = {
  n: "next",
  p: "previous",
  u: "out",
  o: "overview",
  b: "turn",
  a: "answer",
  t: "tour",
  g: "find",
  l: "language",
  d: "theme",
  "?": "help",
};

const commands = {
  next: () => step(1),
  previous: () => step(-1),
  out,
  overview: () => {
    address.go("#/");
  },
  answer: () => {
    address.go("#/answer");
  },
  tour: () => tour.start(),
  turn,
  find: () => document.getElementById("find").focus(),
  help: () => document.getElementById("help").showModal(),
  language: () => setLanguage(language.now === "en" ? "zh" : "en"),
  theme: () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
};

async function show() {
  const { path, choices } = address.read(),
    main = document.getElementById("main"),
    mine = (show.turn = (show.turn ?? 0) + 1);
  for (const special of Object.values(SPECIAL)) delete special.onselect;
  let view;
  try {
    view = await viewOf(path);
  } catch (error) {
    console.error(error);
    view = h("h1", { tabindex: -1 }, t("noSuchPlace"));
  }
  if (mine !== show.turn) return; // another place was asked for meanwhile
  main.replaceChildren(view);
  drawFrame(path);
  const why = choices.get("at") === "why" && main.querySelector("#why");
  const heading = why || main.querySelector("h1");
  if (why) why.scrollIntoView();
  else scrollTo(0, 0);
  if (show.turn > 1 && tour.at === null) heading?.focus({ preventScroll: true });
  document.documentElement.dataset.ready = String(show.turn);
}

function viewOf([kind, ...rest]) {
  if (!kind) return overviewView();
  if (kind === "answer") return answerView();
  if (kind === "layer") {
    if (!stopsWithin(rest[0] ?? "").length) throw new Error(`no layer ${rest[0]}`);
    return layerView(rest[0] ?? "");
  }
  if (stopAt([kind, ...rest])) return stopView(kind, Number(rest[0]));
  if (kind === "live") return liveView();
  throw new Error(`no place ${[kind, ...rest].join("/")}`);
}

// The stop that a path names, if there is one.
const stopAt = ([kind, i]) => (["forward", "backward"].includes(kind) ? doc[kind][Number(i)] : undefined);

// The next or previous stop; from another view, the first stop of what is shown.
function step(by) {
  const { path } = address.read();
  if (stopAt(path)) {
    let i = Number(path[1]) + by;
    while (doc[path[0]][i] && !isOnTheWay(doc[path[0]][i])) i += by;
    if (i >= 0 && i < doc[path[0]].length) address.go(address.to(`${path[0]}/${i}`));
    else if (i >= doc.forward.length && path[0] === "forward") address.go("#/answer");
  } else if (path[0] === "answer")
    address.go(
      by > 0
        ? address.to(`backward/${doc.backward.findIndex(isOnTheWay)}`)
        : address.to(`forward/${doc.forward.findLastIndex(isOnTheWay)}`),
    );
  else
    address.go(
      address.to(`${session.direction}/${stopsWithin(path[0] === "layer" ? path[1] : "", session.direction)[0] ?? 0}`),
    );
}

// From a stop to its layer, and from a layer to its parent.
function out() {
  const { path } = address.read(),
    name = path[0] === "layer" ? lineage(path[1]).at(-2) : stopAt(path)?.layer;
  address.go(name ? address.to(`layer/${name}`) : "#/");
}

// From a stop to the corresponding stop of the backward, or of the forward.
function turn() {
  const { path } = address.read(),
    other = session.direction === "forward" ? "backward" : "forward";
  session.direction = other;
  const stop = stopAt(path);
  if (stop) {
    const i = counterpart(stop, other);
    address.go(address.to(`${other}/${Math.max(0, i)}`));
  } else show();
}

function setLanguage(now) {
  language.now = now;
  memory.set("language", now);
  document.documentElement.lang = now === "zh" ? "zh-Hans" : "en";
  frame();
  show();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  memory.set("theme", theme);
}

// The permanent parts of the page: controls at the top, the path to the current view below them.
function frame() {
  const button = (command, key) =>
    h(
      "button",
      {
        type: "button",
        onclick: commands[command],
        "aria-keyshortcuts": key,
        title: `${t(`command.${command}`)} (${key})`,
      },
      t(`command.${command}`),
    );
  const losses = Object.keys(doc.losses);
  document.getElementById("page").replaceChildren(
    h(
      "a",
      {
        class: "skip",
        href: "#main",
        onclick: (event) => {
          event.preventDefault();
          document.querySelector("h1").focus();
        },
      },
      t("skip"),
    ),
    h(
      "header",
      {},
      h("a", { class: "name", href: "#/" }, doc.model.name),
      h("span", { class: "shape" }, doc.about),
      h(
        "nav",
        { class: "buttons", "aria-label": t("controls") },
        button("tour", "t"),
        button("answer", "a"),
        button("turn", "b"),
        h(
          "details",
          { class: "more", open: innerWidth > 640 },
          h("summary", {}, t("more")),
          h(
            "div",
            { class: "buttons" },
            losses.length > 1
              ? h(
                  "label",
                  {},
                  t("loss"),
                  " ",
                  h(
                    "select",
                    {
                      id: "loss",
                      onchange: (event) => {
                        session.loss = event.target.value;
                        show();
                      },
                    },
                    losses.map((loss) =>
                      h(
                        "option",
                        { value: loss, selected: loss === session.loss },
                        t(`loss.${loss}`, { value: digits(doc.losses[loss]) }),
                      ),
                    ),
                  ),
                )
              : null,
            h("label", {}, t("find"), " ", finder()),
            button("language", "l"),
            button("theme", "d"),
            button("help", "?"),
            doc.live ? h("a", { href: "#/live" }, t("live")) : null,
          ),
        ),
      ),
    ),
    h("nav", { id: "trail", "aria-label": t("trail") }),
    h("div", { id: "tour", role: "region", "aria-label": t("command.tour"), hidden: true }),
    h("main", { id: "main" }),
    h("footer", { id: "footer" }),
    helpDialog(),
  );
  tour.show();
}

// Any layer by name, with completion.
function finder() {
  const names = [
    ...new Set(
      doc.forward
        .map((stop) => stop.layer)
        .filter(Boolean)
        .flatMap(lineage),
    ),
  ];
  const go = (event) => {
    const name = event.target.value.trim();
    if (names.includes(name)) {
      event.target.value = "";
      address.go(address.to(`layer/${name}`));
    }
  };
  return h(
    "span",
    {},
    h("input", { id: "find", list: "names", placeholder: "stages.0.blocks.0", onchange: go }),
    h(
      "datalist",
      { id: "names" },
      names.map((name) => h("option", { value: name })),
    ),
  );
}

function drawFrame(path) {
  const stop = stopAt(path);
  const name = path[0] === "layer" ? path[1] : stop?.layer;
  const trail = [
    h("a", { href: "#/" }, t("overview")),
    ...lineage(name ?? "").map((part) => h("a", { href: address.to(`layer/${part}`) }, titleOf(part))),
  ];
  if (stop) trail.push(h("span", { "aria-current": "page" }, opTitle(stop.op)));
  if (path[0] === "answer") trail.push(h("span", { "aria-current": "page" }, t("answerTitle")));
  document.getElementById("trail").replaceChildren(
    h(
      "ol",
      {},
      trail.map((item) => h("li", {}, item)),
    ),
    h("span", { class: `mode ${session.direction}` }, t(`mode.${session.direction}`)),
  );
  const button = (command, key) =>
    h(
      "button",
      { type: "button", onclick: commands[command], "aria-keyshortcuts": key },
      t(`command.${command}`),
      " ",
      h("kbd", {}, key),
    );
  document
    .getElementById("footer")
    .replaceChildren(h("div", { class: "buttons" }, button("previous", "p"), button("out", "u"), button("next", "n")));
  document.title = `${document.querySelector("h1")?.textContent ?? ""} — ${doc.model.name}`;
}

function helpDialog() {
  const toggle = h("input", {
    type: "checkbox",
    checked: session.keys,
    onchange: (event) => {
      session.keys = event.target.checked;
      memory.set("keys", session.keys ? "on" : "off");
    },
  });
  return h(
    "dialog",
    { id: "help", "aria-labelledby": "helptitle" },
    h("h2", { id: "helptitle" }, t("helpTitle")),
    h("p", {}, t("helpText")),
    h(
      "dl",
      {},
      Object.entries(KEYS).flatMap(([key, command]) => [
        h("dt", {}, h("kbd", {}, key)),
        h("dd", {}, t(`command.${command}`)),
      ]),
      h("dt", {}, h("kbd", {}, "← ↑ ↓ →")),
      h("dd", {}, t("arrowKeys")),
    ),
    h("p", {}, h("label", {}, toggle, " ", t("singleKeys"))),
    h("form", { method: "dialog" }, h("button", {}, t("close"))),
  );
}

// The browser's back and forward within the tour: its text follows the address.
addEventListener("popstate", ({ state }) => {
  if (tour.at !== null && Number.isInteger(state)) {
    tour.at = state;
    tour.show();
  }
});
addEventListener("hashchange", () => {
  address.now = location.hash;
  show();
});
// Handles links within the page, which in a notebook's frame would otherwise leave it.
addEventListener("click", (event) => {
  const place = event.target.closest?.("a")?.getAttribute("href");
  if (!place?.startsWith("#/") || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  address.go(place);
});
addEventListener("keydown", (event) => {
  if (
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    !session.keys ||
    event.target.closest("input, select, textarea, dialog")
  )
    return;
  const command = KEYS[event.key];
  if (!command) return;
  event.preventDefault();
  commands[command]();
});

// For the console and for tests: levit.read("stages.0.blocks.0.mlp.up", "y", [3, 5]) -> the digits.
window.levit = {
  document: doc,
  tensors,
  find: (layer, name, direction = "forward") => {
    const stop = doc[direction].find((s) => s.layer === layer && name in s.out);
    return stop?.out[name];
  },
  read: async (layer, name, index, direction = "forward") => {
    const place = window.levit.find(layer, name, direction);
    return place === undefined ? undefined : (await tensors.get(place)).text(...index);
  },
};

language.now = memory.get("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
document.documentElement.lang = language.now === "zh" ? "zh-Hans" : "en";
setTheme(memory.get("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
frame();
show();
