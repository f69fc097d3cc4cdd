// [data-reread="10"]: the page fetches itself every ten seconds and takes over the [data-part]s that
// have changed; the element says when that does not work. A page that nobody looks at rests.
"use strict";
(() => {
  const sign = document.querySelector("[data-reread]");
  if (!sign) return;

  const EVERY = Number(sign.dataset.reread) * 1000;
  const seen = new Map();
  let timer = 0;
  let asking = false;
  let last = Date.now();

  const parts = (root) => [...root.querySelectorAll("[data-part]")];
  const say = (...content) => {
    if (sign.textContent !== content.map((each) => each.textContent || each).join("")) sign.replaceChildren(...content);
  };
  // A text that is being selected is not taken away from its reader.
  const inUse = (part) => {
    const selection = getSelection();
    return !selection.isCollapsed && part.contains(selection.anchorNode);
  };
  const focused = (part) => {
    const active = document.activeElement;
    return part.contains(active) && active !== part ? active.getAttribute("href") : null;
  };
  const wide = (part) => [...part.querySelectorAll(".table-responsive")];
  const replace = (fresh) => {
    const html = fresh.outerHTML;
    const part = document.querySelector(`[data-part="${fresh.dataset.part}"]`);
    if (!part || seen.get(fresh.dataset.part) === html || inUse(part)) return;
    const href = focused(part);
    const lefts = wide(part).map((table) => table.scrollLeft);
    seen.set(fresh.dataset.part, html);
    part.replaceWith(document.adoptNode(fresh));
    wide(fresh).forEach((table, at) => (table.scrollLeft = lefts[at] || 0));
    if (href === null) return;
    const again = [...fresh.querySelectorAll("a")].find((link) => link.getAttribute("href") === href);
    if (again) again.focus({ preventScroll: true });
  };
  const loggedOut = () => {
    const link = document.createElement("a");
    link.href = location.href;
    link.textContent = "Log in again";
    say("You were logged out. ", link);
  };
  const refresh = async () => {
    if (asking) return;
    asking = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.redirected || answer.status === 401 || answer.status === 403) return loggedOut();
      if (!answer.ok) throw new Error(String(answer.status));
      parts(new DOMParser().parseFromString(await answer.text(), "text/html")).forEach(replace);
      last = Date.now();
      say("");
    } catch {
      say("The server does not answer; trying again.");
    } finally {
      asking = false;
    }
    return plan(EVERY);
  };
  const plan = (wait) => {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(refresh, wait);
  };

  document.addEventListener("visibilitychange", () => plan(Math.max(0, last + EVERY - Date.now())));
  plan(EVERY);
})();
