// What a reader does with the events of a run: show one whole, copy, follow a link to one.
// data-kinds: buttons that hide the events of a kind.
// data-whole="12": a link that shows event 12 whole. data-copy: a button that copies what stands below it.
"use strict";
(() => {
  const list = document.querySelector("[data-events]");
  if (!list) return;

  // What is said on the page must be there: an address may name an event that is not.
  const follow = () => {
    const number = /^#e(\d+)$/.exec(location.hash);
    if (!number || document.getElementById(`e${number[1]}`)) return;
    const asked = new URLSearchParams(location.search).get("at") === number[1];
    if (!asked) location.replace(`?at=${number[1]}#e${number[1]}`);
  };

  const whole = async (link) => {
    const { events } = link.closest("[data-events]").dataset;
    const answer = await fetch(`${events}?whole=${link.dataset.whole}`);
    if (!answer.ok) throw new Error(String(answer.status));
    const template = document.createElement("template");
    template.innerHTML = (await answer.json()).events[0].html;
    const fresh = template.content.firstElementChild;
    const article = link.closest("article");
    const slot = (element) => element.querySelector(":scope > .own-what > [data-answer]");
    if (slot(fresh) && slot(article)) slot(fresh).replaceWith(slot(article));
    // Where several runs are shown their elements have other names.
    fresh.id = article.id;
    fresh.querySelector(":scope > .own-when").hash = article.id;
    article.replaceWith(fresh);
    return fresh;
  };

  const copy = async (button) => {
    const article = button.closest("article");
    const link = article && article.querySelector(":scope > .own-what > [data-whole]");
    const now = link ? (await whole(link)).querySelector(":scope > .own-what > .own-label [data-copy]") : button;
    await navigator.clipboard.writeText(now.closest(".own-label").nextElementSibling.textContent);
    now.textContent = "copied";
    setTimeout(() => (now.textContent = "copy"), 1500);
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-whole]");
    const button = event.target.closest("[data-copy]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      whole(link).catch(() => location.assign(link.href));
    }
    if (button) copy(button).catch(() => (button.textContent = "not copied"));
  });
  const kinds = document.querySelector("[data-kinds]");
  // Browsers copy for pages that came by https or from this machine.
  if (navigator.clipboard) document.body.dataset.canCopy = "";
  if (!kinds) return;
  const show = () => {
    const off = [...kinds.querySelectorAll('[aria-pressed="false"]')];
    list.dataset.hide = off.map((button) => button.dataset.kind).join(" ");
  };
  kinds.addEventListener("click", (event) => {
    const button = event.target.closest("[data-kind]");
    if (!button) return;
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    show();
  });
  kinds.hidden = false;

  addEventListener("hashchange", follow);
  follow();
})();
