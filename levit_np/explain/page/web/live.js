"use strict";
// The served page: an image or a drawn digit goes to the server on this machine, which answers with a page of its own.

async function liveView() { return h("h1", { tabindex: -1 }, t("liveTitle")); }
