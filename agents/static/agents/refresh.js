// data-refresh="/address/": the parts of the page (data-part) are replaced by those of the same name that the
// address answers, again and again as long as the page is seen, until one of them says data-ended.
"use strict";
(() => {
  const root = document.querySelector("[data-refresh]");
  if (!root) return;

  const EVERY = 2500; // milliseconds between questions
  const LATER = 10000; // after one that was not answered

  const shown = new Map();
  let timer = 0;
  let asking = false;
  let over = false;

  const replace = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    template.content.querySelectorAll("[data-part]").forEach((part) => {
      over ||= "ended" in part.dataset;
      // What has not changed stays, with whatever the reader has selected in it.
      const text = part.outerHTML;
      if (shown.get(part.dataset.part) === text) return;
      shown.set(part.dataset.part, text);
      const old = document.querySelector(`[data-part="${part.dataset.part}"]`);
      if (old) old.replaceWith(part);
    });
    if (over) document.querySelectorAll("[data-until-ended]").forEach((element) => element.remove());
  };
  const ask = async () => {
    timer = 0;
    if (document.hidden || asking || over) return;
    asking = true;
    let wait = EVERY;
    try {
      const answer = await fetch(root.dataset.refresh, { redirect: "manual" });
      // Logged out, or not to be seen any more: the page says so when it is loaded again.
      over = answer.type === "opaqueredirect" || answer.status === 403 || answer.status === 404;
      if (!over && !answer.ok) throw new Error(String(answer.status));
      if (!over) replace(await answer.text());
    } catch {
      wait = LATER;
    }
    asking = false;
    if (!over) timer = setTimeout(ask, wait);
  };
  document.addEventListener("visibilitychange", () => {
    if (!timer) ask();
  });
  timer = setTimeout(ask, EVERY);
})();
