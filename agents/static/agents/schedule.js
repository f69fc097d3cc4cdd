// [data-schedule], the form of a schedule: what it comes to, asked of that address while one types, with
// mistakes beside their fields. [data-only="kind=cron"]: shown while that radio button is chosen.
// [data-new]: the browser's own time zone is proposed.
"use strict";
(() => {
  // In milliseconds: after the last key.
  const QUIET = 300;
  const form = document.querySelector("form[data-schedule]");
  if (!form) return;
  const part = (name) => form.querySelector(`[data-${name}]`);
  const element = (tag, text, kind) => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const only = () => {
    form.querySelectorAll("[data-only]").forEach((place) => {
      const [name, value] = place.dataset.only.split("=");
      // A mistake is never hidden.
      place.hidden = form.elements[name].value !== value && !place.querySelector(".is-invalid");
    });
  };
  const moment = ({ utc, there, blackout }) => {
    const line = element("li", "", blackout ? "text-secondary" : "");
    const first = element("span", "", "text-nowrap");
    first.append(blackout ? element("del", there) : there);
    const here = element("span", "(here ", "text-secondary text-nowrap");
    const time = element("time");
    time.dateTime = utc;
    time.dataset.local = "";
    here.append(time, ")");
    line.append(first, " ", here);
    if (blackout) line.append(" ", element("span", `blackout ${blackout}`, "text-nowrap"));
    return line;
  };
  const touched = new Set();
  const complain = (errors) => {
    form.querySelectorAll("[data-field]").forEach((place) => {
      const { field } = place.dataset;
      if (!touched.has(field)) return;
      const said = (errors[field] || []).join(" ");
      const where = place.querySelector("[data-errors]");
      if (where.textContent !== said) where.textContent = said;
      const input = place.querySelector("input, select, textarea");
      input.classList.toggle("is-invalid", Boolean(said));
      input.setAttribute("aria-invalid", String(Boolean(said)));
    });
    only();
  };
  const draw = ({ errors, words, next, notes }) => {
    part("known").hidden = !words;
    part("words").textContent = words;
    part("next").replaceChildren(...next.map(moment));
    part("notes").replaceChildren(...notes.map((note) => element("li", note)));
    part("quiet").textContent = words ? "" : "Once its moments are clear they stand here.";
    complain(errors);
  };
  let asking, timer;
  const refresh = async () => {
    asking?.abort();
    asking = new AbortController();
    const mine = asking;
    try {
      const answer = await fetch(form.dataset.schedule, {
        method: "POST", body: new FormData(form), signal: mine.signal, headers: { Accept: "application/json" },
      });
      if (answer.redirected || !answer.ok) throw new Error(String(answer.status));
      const seen = await answer.json();
      if (mine === asking) draw(seen);
    } catch (error) {
      if (error.name !== "AbortError") part("quiet").textContent = "What this comes to cannot be shown now; saving may still work.";
    }
  };
  const changed = (event) => {
    const place = event.target.closest("[data-field]");
    if (place) touched.add(place.dataset.field);
    if (event.target.name === "kind") {
      ["cron", "interval"].forEach((name) => touched.add(name));
      complain({});
    }
    only();
    clearTimeout(timer);
    timer = setTimeout(refresh, QUIET);
  };
  form.addEventListener("input", changed);
  form.addEventListener("change", changed);
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if ("new" in form.dataset && zone && !form.querySelector(".is-invalid")) form.elements.time_zone.value = zone;
  only();
  if (form.elements.cron.value || form.elements.interval.value) refresh();
})();
