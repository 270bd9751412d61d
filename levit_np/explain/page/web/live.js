"use strict";
// The served page: sends an image or a drawn digit to the server on this machine, which answers with that image's page.

const DRAWING = 280; // pixels, a multiple of:
const SCAN = 8;

async function liveView() {
  const view = h("div", {}, h("h1", { tabindex: -1 }, t("liveTitle")), h("p", {}, t("liveIntro")));
  if (!doc.live) return view;
  const weights = h(
    "select",
    {},
    doc.live.weights.map((name, i) => h("option", { value: i, selected: i === doc.live.chosen }, name)),
  );
  const target = h("input", { type: "text", size: 12 });
  const state = h("p", { role: "status", class: "answer" });
  const send = async (blob, name) => {
    state.replaceChildren(t("computing"));
    const query = new URLSearchParams({ name, weights: weights.value, target: target.value.trim() });
    try {
      const answer = await fetch(`/compute?${query}`, { method: "POST", body: blob });
      if (!answer.ok) throw new Error((await answer.text()).trim());
      location.href = (await answer.json()).page;
    } catch (error) {
      state.replaceChildren(t("failed", { reason: error.message }));
    }
  };
  const file = h("input", {
    type: "file",
    accept: "image/jpeg,image/png,image/webp",
    onchange: () => file.files[0] && send(file.files[0], file.files[0].name),
  });
  const drop = h(
    "div",
    {
      class: "drop",
      ondragover: (event) => {
        event.preventDefault();
        drop.classList.add("over");
      },
      ondragleave: () => drop.classList.remove("over"),
      ondrop: (event) => {
        event.preventDefault();
        drop.classList.remove("over");
        const [dropped] = event.dataTransfer.files;
        if (dropped) send(dropped, dropped.name);
      },
    },
    h("label", {}, t("chooseFile"), " ", file),
  );
  const { canvas, clear } = drawing();
  view.append(
    h(
      "div",
      { class: "choosers" },
      h("label", {}, t("weights"), " ", weights),
      h("label", {}, t("targetClass"), " ", target),
    ),
    drop,
    h("h2", {}, t("orDraw")),
    h("p", { class: "note" }, t("drawNote")),
    canvas,
    h(
      "div",
      { class: "buttons" },
      h(
        "button",
        {
          type: "button",
          class: "main",
          onclick: () => scanned(canvas).toBlob((blob) => send(blob, t("drawing")), "image/png"),
        },
        t("compute"),
      ),
      h("button", { type: "button", onclick: clear }, t("clear")),
    ),
    state,
  );
  return view;
}

// A black square to draw on in white, with a mouse, a pen or a finger.
function drawing() {
  const canvas = h("canvas", {
      class: "digit",
      width: DRAWING,
      height: DRAWING,
      role: "img",
      "aria-label": t("drawLabel"),
    }),
    context = canvas.getContext("2d");
  const clear = () => {
    context.fillStyle = "#000";
    context.fillRect(0, 0, DRAWING, DRAWING);
  };
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * DRAWING) / box.width, ((event.clientY - box.top) * DRAWING) / box.height];
  };
  let last = null;
  const line = (event) => {
    if (!event.buttons) last = null; // it was let go elsewhere: in a menu, in another program
    if (!last) return;
    const now = at(event);
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...now);
    context.stroke();
    last = now;
  };
  Object.assign(context, { strokeStyle: "#fff", lineWidth: 44, lineCap: "round", lineJoin: "round" });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = at(event);
    line(event);
  });
  canvas.addEventListener("pointermove", line);
  canvas.addEventListener("pointerup", () => {
    last = null;
  });
  clear();
  return { canvas, clear };
}

// The drawing in the form of the digits' training images: it fills the square, at a resolution of 8 × 8 pixels.
function scanned(canvas) {
  const pixels = (from) => from.getContext("2d").getImageData(0, 0, DRAWING, DRAWING).data;
  const drawn = pixels(canvas);
  const inked = range(DRAWING ** 2).filter((i) => drawn[4 * i] > 0);
  const [low, high] = inked.length ? [inked[0], inked.at(-1)] : [0, DRAWING ** 2 - 1];
  const [top, bottom] = [Math.floor(low / DRAWING), Math.floor(high / DRAWING) + 1];
  const left = inked.reduce((least, i) => Math.min(least, i % DRAWING), inked.length ? DRAWING : 0);
  const right = inked.reduce((most, i) => Math.max(most, (i % DRAWING) + 1), inked.length ? 0 : DRAWING);
  const blank = (size) => h("canvas", { width: size, height: size });
  const [filled, small] = [blank(DRAWING), blank(SCAN)];
  const [wide, tall] = [right - left, bottom - top];
  const scale = DRAWING / Math.max(wide, tall);
  const place = [(DRAWING - wide * scale) / 2, (DRAWING - tall * scale) / 2, wide * scale, tall * scale];
  filled.getContext("2d").drawImage(canvas, left, top, wide, tall, ...place);
  const whole = pixels(filled);
  const scan = new ImageData(SCAN, SCAN);
  const block = DRAWING / SCAN;
  for (const i of range(SCAN ** 2)) {
    const corner = Math.floor(i / SCAN) * block * DRAWING + (i % SCAN) * block;
    const values = range(block ** 2).map((n) => whole[4 * (corner + Math.floor(n / block) * DRAWING + (n % block))]);
    const mean = add(values) / values.length;
    scan.data.set([mean, mean, mean, 255], 4 * i);
  }
  small.getContext("2d").putImageData(scan, 0, 0);
  return small;
}
