// [data-tryout], in the form of an agent: the command line that its values come to, kept up to date as
// one types, with mistakes beside their fields; and a test of what is saved.
"use strict";
(() => {
  // In milliseconds: after the last key; between two looks at a test; the longest that one is waited for.
  const QUIET = 400, LOOK = 500, PATIENCE = 100000;
  const SIGNS = { ok: "✓", warn: "!", fail: "✗" };

  const start = () => {
    const panel = document.querySelector("[data-tryout]");
    if (!panel) return;
    const form = panel.closest("form");
    const part = (name) => panel.querySelector(`[data-part="${name}"]`);
    const element = (tag, kind, text) => {
      const made = document.createElement(tag);
      if (kind) made.className = kind;
      if (text) made.textContent = text;
      return made;
    };
    const show = (name, text) => {
      part(name).textContent = text;
      part(name).hidden = !text;
    };
    // Against what the site has sent; a form that came back with its mistakes was not saved either.
    const differs = (field) => {
      if (!field.name || field.multiple) return false;
      if (field.type === "checkbox") return field.checked !== field.defaultChecked;
      if (field.options) return [...field.options].some((option) => option.selected !== option.defaultSelected);
      return "defaultValue" in field && field.value !== field.defaultValue;
    };
    const unsaved = () => Boolean(form.querySelector(".errornote")) || [...form.elements].some(differs);
    const ask = async (address, options) => {
      const answer = await fetch(address, { headers: { Accept: "application/json" }, ...options });
      if (answer.redirected || answer.status === 403) throw new Error("You are logged out, or may not change this agent any more.");
      if (!answer.ok) throw new Error(`The site answers with an error (${answer.status}).`);
      return answer.json();
    };
    const token = () => form.elements.csrfmiddlewaretoken.value;
    const post = (address, values, signal) =>
      ask(address, { method: "POST", body: values, signal, headers: { Accept: "application/json", "X-CSRFToken": token() } });

    // A row of the form, by the name of its field: "model", or "docker-0-image" and "docker.image".
    const row = (name) => {
      const inside = /^docker(?:-\d+-|\.)(.+)$/.exec(name);
      const root = inside ? form.querySelector("#docker-0") : form;
      const selector = `.form-row.field-${CSS.escape(inside ? inside[1] : name)}`;
      return [...(root ? root.querySelectorAll(selector) : [])].find((found) => inside || !found.closest("#docker-0"));
    };

    const touched = new Set();
    const complain = (errors) => {
      for (const name of touched) {
        const place = row(name);
        if (!place) continue;
        place.querySelectorAll(".errorlist").forEach((old) => old.remove());
        place.classList.toggle("errors", name in errors);
        if (!(name in errors)) continue;
        const list = element("ul", "errorlist");
        errors[name].forEach((message) => list.append(element("li", "", message)));
        place.prepend(list);
      }
    };

    const draw = (seen) => {
      show("command", seen.command || seen.problem);
      part("command").classList.toggle("own-tryout-problem", !seen.command);
      part("facts").replaceChildren(
        ...seen.facts.flatMap(([name, text]) => [element("dt", "", name), element("dd", "", text)]),
      );
      part("container").textContent = seen.container;
      part("container-part").hidden = !seen.container;
      const wrong = Object.keys(seen.errors).filter((name) => touched.has(name)).length;
      show("note", wrong ? "Fields with mistakes are shown as they are stored." : "");
      complain(seen.errors);
    };

    let asking, timer;
    const refresh = async () => {
      asking?.abort();
      asking = new AbortController();
      const mine = asking;
      try {
        const seen = await post(panel.dataset.preview, new FormData(form), mine.signal);
        if (mine === asking) draw(seen);
      } catch (error) {
        if (error.name !== "AbortError") show("note", `The command line is not up to date. ${error.message}`);
      }
    };
    const changed = (event) => {
      if (event.target.name) touched.add(event.target.name);
      clearTimeout(timer);
      timer = setTimeout(refresh, QUIET);
    };
    form.addEventListener("input", changed);
    form.addEventListener("change", changed);
    refresh();

    if (!panel.dataset.test) return;
    const button = part("test");
    const say = (text, kind) => {
      part("results").hidden = false;
      part("progress").className = kind ? `own-tryout-${kind}` : "";
      // The same words again would be read out again.
      if (part("progress").textContent !== text) part("progress").textContent = text;
    };
    const finding = (each, tag) => {
      const line = element(tag, `own-tryout-${each.status}`);
      line.append(element("span", "own-tryout-sign", SIGNS[each.status]), " ");
      return line;
    };
    const clear = () => {
      part("findings").replaceChildren();
      form.querySelectorAll("[data-finding]").forEach((old) => old.remove());
    };
    const results = (findings) => {
      clear();
      for (const each of findings) {
        const words = `${each.detail}${each.remedy ? ` → ${each.remedy}` : ""}`;
        const line = finding(each, "li");
        line.append(element("strong", "", each.name.replace("docker.", "").replace("_", " ")), ` ${words}`);
        part("findings").append(line);
        const place = row(each.name);
        if (!place) continue;
        const beside = finding(each, "div");
        beside.dataset.finding = each.name;
        beside.classList.add("own-tryout-beside");
        beside.append(words);
        place.append(beside);
      }
      const failed = findings.filter((each) => each.status === "fail").length;
      const warned = findings.filter((each) => each.status === "warn").length;
      if (failed) say(`Runs would fail: ${failed} of ${findings.length} checks say why.`, "fail");
      else if (warned) say("Runs would start; something should be looked at.", "warn");
      else say("All is there: runs would start.", "ok");
    };
    const pause = () => new Promise((done) => setTimeout(done, LOOK));
    const follow = async (progress) => {
      const end = Date.now() + PATIENCE;
      while (progress.state === "waiting" && Date.now() < end) {
        say([progress.message, progress.remedy].filter(Boolean).join(" → "), progress.remedy ? "warn" : "");
        await pause();
        progress = await ask(panel.dataset.test);
      }
      if (progress.state === "done") return results(progress.findings);
      const message = progress.state === "waiting" ? "No answer came. → Test again." : "";
      return say(message || [progress.message, progress.remedy].filter(Boolean).join(" → "), "fail");
    };
    button.addEventListener("click", async () => {
      button.disabled = true;
      clear();
      show("note", unsaved() ? "There are unsaved changes: the test is of what is saved." : "");
      say("Asking a worker.");
      try {
        await follow(await post(panel.dataset.test, new FormData()));
      } catch (error) {
        say(`The test cannot be followed. ${error.message}`, "fail");
      }
      button.disabled = false;
    });
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
