// A run's page while it runs: events are appended in their order, each once, facts are replaced.
// Events before and after those that are shown are fetched when the reader comes near them.
"use strict";
(() => {
  const list = document.querySelector("[data-events]");
  if (!list) return;

  const MOST = 5000; // events kept on the page
  const NEAR = 120; // pixels from the end that count as being at the end
  const SOON = 800; // pixels from the edge at which more is fetched

  const earlier = document.querySelector("[data-earlier]");
  const later = document.querySelector("[data-later]");
  const jump = document.querySelector("[data-jump]");
  const connection = document.querySelector("[data-connection]");
  let last = Number(list.dataset.after);
  let pending = [];
  let drawing = false;
  // Whether the page reaches to the run's last event; only then it follows and listens.
  let complete = list.dataset.atEnd === "1";
  let fetching = false;
  let lastY = scrollY;
  let ended = list.dataset.terminal === "1";
  let told = ended;

  const atEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - NEAR;
  const toEnd = () => scrollTo({ top: document.documentElement.scrollHeight });
  const say = (...content) => {
    if (connection) connection.replaceChildren(...content);
  };
  const parse = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content;
  };

  const draw = () => {
    drawing = false;
    const follow = complete && atEnd();
    for (const html of pending) place(parse(html).firstElementChild);
    pending = [];
    trim(follow);
    if (follow) toEnd();
    offerJump();
  };
  // A result goes into the card of its call, as the server does it; the last call of that id counts.
  const place = (article) => {
    const slot = slotFor(article.dataset.answers);
    if (slot) slot.replaceChildren(article);
    else list.append(article);
  };
  const slotFor = (id) => {
    if (!id) return null;
    const call = [...list.querySelectorAll(`[data-tool="${CSS.escape(id)}"]`)].pop();
    const slot = call && call.querySelector(":scope > .own-what > [data-answer]");
    return slot && !slot.querySelector("article") ? slot : null;
  };
  // A page that is left open all night must not fill the browser's memory; earlier events stay a link away.
  const trim = (follow) => {
    while (follow && list.children.length > MOST) list.firstElementChild.remove();
    offerEarlier();
  };
  const offerEarlier = () => {
    const first = list.firstElementChild;
    earlier.hidden = !first || first.dataset.seq === "1";
    if (earlier.hidden) return;
    earlier.href = `?before=${first.dataset.seq}`;
    earlier.querySelector("[data-earlier-count]").textContent = Number(first.dataset.seq) - 1;
  };
  const offerJump = () => {
    if (jump) jump.hidden = complete && atEnd();
  };

  const add = (seq, html) => {
    if (seq <= last) return;
    last = seq;
    pending.push(html);
    if (drawing) return;
    drawing = true;
    setTimeout(draw, 40);
  };
  const replace = (html) => {
    // What stands above the events may grow.
    const follow = complete && atEnd();
    parse(html)
      .querySelectorAll("[data-part]")
      .forEach((part) => {
        const old = document.querySelector(`[data-part="${part.dataset.part}"]`);
        if (!old || old.outerHTML === part.outerHTML) return;
        old.replaceWith(part);
        if (part.dataset.state) showState(part.dataset);
      });
    if (follow) toEnd();
  };
  // The tab says it, too; and whoever wants to know hears of it once.
  const showState = ({ state, icon, terminal }) => {
    document.title = `${state.replace("_", " ")} · ${list.dataset.name}`;
    document.querySelector("link[rel=icon]").href = icon;
    if (state === "cancelling" || terminal === "1") {
      document.querySelectorAll("[data-until-cancelling]").forEach((element) => element.remove());
    }
    if (terminal !== "1" || told) return;
    told = true;
    document.dispatchEvent(new CustomEvent("run-ended", { detail: { state, icon } }));
    document.querySelectorAll("[data-until-ended]").forEach((element) => element.remove());
    document.querySelectorAll("[data-when-ended]").forEach((element) => (element.hidden = false));
  };

  // At most one fetch at a time; what fails is tried again when the reader scrolls on.
  const once = async (work) => {
    if (fetching) return;
    fetching = true;
    try {
      await work();
    } catch {
      // The link is still there.
    }
    fetching = false;
  };
  const get = async (query) => {
    const answer = await fetch(`${list.dataset.events}?${query}`, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(String(answer.status));
    return answer.json();
  };
  const loadEarlier = async () => {
    const anchor = list.firstElementChild;
    if (!anchor || list.children.length > MOST) return;
    const { html } = await get(`before=${anchor.dataset.seq}`);
    const top = anchor.getBoundingClientRect().top;
    list.prepend(parse(html));
    // Results whose calls have come now.
    list.querySelectorAll(":scope > [data-answers]").forEach((article) => {
      const slot = slotFor(article.dataset.answers);
      if (slot) slot.replaceChildren(article);
    });
    scrollBy({ top: anchor.getBoundingClientRect().top - top, behavior: "instant" });
    offerEarlier();
  };
  const loadLater = async () => {
    if (complete || list.children.length > MOST) return;
    const news = await get(`after=${last}`);
    news.events.forEach((event) => add(event.seq, event.html));
    if (news.events.length) return;
    complete = true;
    later.hidden = true;
    const waiting = document.querySelector("[data-waiting]");
    if (waiting) waiting.hidden = false;
    if (!ended) listen();
  };
  const look = () => {
    const up = scrollY < lastY;
    lastY = scrollY;
    if (up && !earlier.hidden && earlier.getBoundingClientRect().bottom > -SOON) once(loadEarlier);
    if (!up && later && !later.hidden && later.getBoundingClientRect().top < innerHeight + SOON) once(loadLater);
  };

  const listen = () => {
    const { events, stream, login } = list.dataset;
    window.followRun({ events, stream, login, after: last, add, replace, say, end: () => (ended = true) });
  };

  addEventListener("scroll", offerJump, { passive: true });
  addEventListener("scroll", look, { passive: true });
  addEventListener("resize", offerJump);
  if (jump) {
    jump.addEventListener("click", () => (complete ? toEnd() : location.assign(later.href)));
  }
  if (complete && !location.hash && !ended) toEnd();
  offerJump();
  if (complete && !ended) listen();
})();
