// [data-relevance], in the form of an agent: settings that the chosen runtime does not read, and those
// of a container while there is none, are folded away. They keep what is in them, and are sent.
"use strict";
(() => {
  const start = () => {
    const panel = document.querySelector("[data-relevance]");
    if (!panel) return;
    const form = panel.closest("form");
    const { some, by_runtime: read, labels } = JSON.parse(panel.dataset.relevance);
    const name = (row) => [...row.classList].find((kind) => kind.startsWith("field-"))?.slice(6);
    const runtime = () => form.elements.runtime?.value;
    const switches = form.elements["docker-0-enabled"];
    // Without the box there is a container: nobody else's agents are shown to those without the box.
    const contained = () => !switches || switches.checked;

    const groups = [...form.querySelectorAll("fieldset.module")].map((group) => {
      const rows = [...group.children].filter((child) => child.classList.contains("form-row"));
      return { group, rows, docker: Boolean(group.closest("#docker-0")), open: false };
    });
    const beside = ({ docker }, row) => {
      if (docker) return !contained() && name(row) !== "enabled";
      return some.includes(name(row)) && runtime() in read && !read[runtime()].includes(name(row));
    };
    const words = ({ docker }, count) => {
      const settings = `${count} ${count === 1 ? "setting" : "settings"}`;
      return docker ? `${settings} that matter only in a container` : `${settings} that the ${labels[runtime()]} runtime does not read`;
    };
    const draw = (each) => {
      const idle = each.rows.filter((row) => beside(each, row));
      for (const row of each.rows) {
        const out = idle.includes(row);
        row.classList.toggle("own-idle", out);
        row.classList.toggle("own-folded", out && !each.open && !row.classList.contains("errors"));
      }
      if (!each.button) {
        each.button = document.createElement("button");
        each.button.type = "button";
        each.button.className = "own-fold";
        each.button.addEventListener("click", () => {
          each.open = !each.open;
          draw(each);
        });
        each.group.append(each.button);
      }
      each.button.hidden = !idle.length;
      each.button.setAttribute("aria-expanded", String(each.open));
      each.button.textContent = `${each.open ? "Hide" : "Show"} ${words(each, idle.length)}`;
    };
    const all = () => groups.forEach(draw);
    form.addEventListener("change", all);
    addEventListener("pageshow", all);
    all();
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
