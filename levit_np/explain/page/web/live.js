"use strict";
// The served page: an image or a drawn digit goes to the server on this machine, which answers with a page of its own.

const DRAWING = 280; // pixels

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
          onclick: () => softened(canvas).toBlob((blob) => send(blob, t("drawing")), "image/png"),
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

// As blurred as the scans of 8 × 8 pixels that the digits' weights were trained on.
function softened(canvas) {
  const small = h("canvas", { width: 16, height: 16 }),
    large = h("canvas", { width: DRAWING, height: DRAWING });
  for (const [to, from] of [
    [small, canvas],
    [large, small],
  ]) {
    const context = to.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(from, 0, 0, to.width, to.height);
  }
  return large;
}
