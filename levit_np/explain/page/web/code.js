"use strict";
// The code of a stop: the operation, and the line of the layer that called it.

const KEYWORDS = /\b(def|return|for|in|if|else|not|None|is|and|or|class|import|from|lambda)\b/;

function codeBox(stop) {
  const box = h("section", { class: "code", "aria-label": t("code") }, h("h2", {}, t("code")));
  const { op, layer, line } = stop.code;
  if (op !== undefined) box.append(listing(doc.code[op], null, true));
  if (layer !== undefined) box.append(listing(doc.code[layer], line, op === undefined));
  return box;
}

function listing(code, marked, open) {
  const start = marked === null ? Infinity : marked - code.first;
  const end = endOfCall(code.lines, start);
  const lines = code.lines.map((text, i) => {
    const here = start <= i && i <= end;
    return h(
      "span",
      { class: here ? "line here" : "line", "aria-current": here ? "step" : null },
      h("span", { class: "lineno", "aria-hidden": "true" }, String(code.first + i)),
      ...coloured(text),
    );
  });
  return h(
    "details",
    { open: open || marked !== null },
    h(
      "summary",
      {},
      h("code", {}, nameOf(code)),
      " ",
      h("span", { class: "shape" }, `levit_np/${code.file}:${code.first}`),
    ),
    h("pre", { tabindex: 0, "aria-label": nameOf(code) }, h("code", {}, lines)),
  );
}

// The line that closes the parentheses opened by a line.
function endOfCall(lines, start) {
  let open = 0;
  for (let i = start; i < lines.length; i++) {
    const code = lines[i].split("#")[0];
    open += code.split(/[([{]/).length - code.split(/[)\]}]/).length;
    if (open <= 0) return i;
  }
  return start;
}

// Highlights comments and keywords only, which is enough for orientation.
function coloured(text) {
  const hash = text.indexOf("#"),
    body = hash < 0 ? text : text.slice(0, hash),
    found = [];
  for (const piece of body.split(new RegExp(KEYWORDS.source, "g")))
    found.push(KEYWORDS.test(piece) && piece.trim() === piece ? h("span", { class: "keyword" }, piece) : piece);
  if (hash >= 0) found.push(h("span", { class: "comment" }, text.slice(hash)));
  return found;
}

// The name of a function, from its first line.
const nameOf = (code) => code.lines.map((line) => line.match(/def (\w+)/)?.[1]).find(Boolean) ?? code.file;
