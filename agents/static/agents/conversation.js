// The page of a conversation: what the live run does is appended, the next one begins below it, and nothing
// of what is being typed is lost. What waits, and whether a message can be sent, is asked for now and then.
"use strict";
(() => {
  const turns = document.querySelector("[data-turns]");
  if (!turns) return;

  const SOON = 3000; // milliseconds between questions while something goes on
  const LATER = 10000; // and while nothing does
  const NEAR = 160; // pixels from the end that count as being at the end
  const NAMED = 5; // tools that a folded line names
  const ALOUD = ["own-event-text", "own-event-result", "own-event-error"];
  const NAMES = { thinking: "thinking", stderr: "standard error" };

  const form = document.querySelector("[data-composer]");
  const field = form && form.elements.prompt;
  const ways = form ? [...form.elements].filter((each) => each.name === "mode") : [];
  const way = () => ways.find((button) => !button.hidden);
  const complaint = document.querySelector("[data-complaint]");
  const connection = document.querySelector("[data-connection]");
  const newest = document.querySelector("[data-newest]");
  const earlier = document.querySelector("[data-earlier]");
  const complete = turns.dataset.atEnd === "1";
  const following = new Set();
  let lastRun = Number(turns.dataset.last);
  let timer = 0;
  let asking = null;
  let again = false;
  let fetching = false;
  let gone = false;

  const parse = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content;
  };
  const say = (...content) => {
    const text = content.map((each) => each.textContent || each).join("");
    // That everything is as usual need not be said.
    if (text.startsWith("Live")) connection.replaceChildren();
    else if (connection.textContent !== text) connection.replaceChildren(...content);
  };
  const loggedOut = () => {
    const link = document.createElement("a");
    link.href = form ? form.dataset.login : location.href;
    link.textContent = "Log in again";
    say("You were logged out. What you typed is kept. ", link);
  };

  // Where the reader is.
  const atEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - NEAR;
  const toEnd = () => scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  const offerNewest = () => {
    newest.hidden = complete && atEnd();
  };
  const keepingPlace = (change) => {
    const follow = complete && atEnd();
    change();
    if (follow) toEnd();
    offerNewest();
  };

  // Events: said aloud by themselves, all others folded together.
  const adopt = (article, turn) => {
    const { prefix, base } = turn.dataset;
    for (const each of [article, ...article.querySelectorAll("article")]) each.id = prefix + each.id;
    for (const link of article.querySelectorAll('a[href^="#e"]')) link.hash = `#${prefix}${link.hash.slice(1)}`;
    for (const link of article.querySelectorAll("a[data-whole]")) link.href = base + link.getAttribute("href");
    return article;
  };
  const isAloud = (article, list) => {
    if (article.classList.contains("own-sub")) return false;
    if (!ALOUD.some((name) => article.classList.contains(name))) return false;
    if (!article.classList.contains("own-event-result")) return true;
    const said = [...list.querySelectorAll(":scope > .own-event-text")].pop();
    const text = (element) => element.querySelector(".own-prose, pre")?.textContent.trim();
    return !said || text(said) !== text(article);
  };
  const label = (fold) => {
    const calls = [...fold.querySelectorAll(".own-event-tool_use > .own-what > .own-label > strong")];
    const articles = [...fold.querySelectorAll(":scope > div > article")];
    if (!calls.length) {
      const kinds = new Set(articles.map((each) => /own-event-(\w+)/.exec(each.className)[1]));
      const name = (kinds.size === 1 && NAMES[[...kinds][0]]) || "notes";
      return articles.length > 1 ? `${name} (${articles.length})` : name;
    }
    const names = [...new Set(calls.map((each) => each.textContent.slice(0, 40)))];
    const more = names.length > NAMED ? ", …" : "";
    return `${calls.length} tool call${calls.length > 1 ? "s" : ""}: ${names.slice(0, NAMED).join(", ")}${more}`;
  };
  const foldFor = (list) => {
    if (list.lastElementChild?.matches("details.own-quiet")) return list.lastElementChild;
    const fold = document.createElement("details");
    fold.className = "own-quiet";
    fold.append(document.createElement("summary"), document.createElement("div"));
    list.append(fold);
    return fold;
  };
  const slotFor = (list, id) => {
    if (!id) return null;
    const call = [...list.querySelectorAll(`[data-tool="${CSS.escape(id)}"]`)].pop();
    const slot = call && call.querySelector(":scope > .own-what > [data-answer]");
    return slot && !slot.querySelector("article") ? slot : null;
  };
  const place = (turn, html) => {
    const article = adopt(parse(html).firstElementChild, turn);
    const list = turn.querySelector("[data-list]");
    const slot = slotFor(list, article.dataset.answers);
    if (slot) return slot.replaceChildren(article);
    if (isAloud(article, list)) return list.append(article);
    const fold = foldFor(list);
    fold.lastElementChild.append(article);
    fold.firstElementChild.textContent = label(fold);
    return undefined;
  };

  // A run that goes on.
  const follow = (turn) => {
    if (following.has(turn)) return;
    following.add(turn);
    let last = Number(turn.dataset.after);
    let pending = [];
    const draw = () =>
      keepingPlace(() => {
        pending.forEach((html) => place(turn, html));
        pending = [];
      });
    window.followRun({
      ...turn.dataset,
      login: form ? form.dataset.login : location.href,
      after: last,
      say,
      add: (seq, html) => {
        if (seq <= last) return;
        last = seq;
        if (!pending.length) setTimeout(draw, 40);
        pending.push(html);
      },
      replace: (html) => keepingPlace(() => replaceFacts(turn, html)),
      end: () => {
        turn.dataset.open = "ended";
        turn.querySelectorAll("[data-until-ended]").forEach((element) => element.remove());
        refresh();
      },
    });
  };
  const replaceFacts = (turn, html) => {
    const fresh = parse(html);
    for (const name of ["headline", "state"]) {
      const part = fresh.querySelector(`[data-part="${name}"]`);
      const old = turn.querySelector(`[data-outcome] [data-part="${name}"]`);
      if (part && old && part.outerHTML !== old.outerHTML) old.replaceWith(part);
    }
    const state = fresh.querySelector('[data-part="state"]');
    if (state && state.dataset.state !== turn.dataset.state) refresh();
    if (state) turn.dataset.state = state.dataset.state;
  };
  const followAll = () => turns.querySelectorAll('[data-open="1"]').forEach(follow);

  // What the page does not have yet.
  const watched = () =>
    [...turns.querySelectorAll('[data-open="1"], [data-open="ended"]')].map((turn) => turn.dataset.turn).slice(-5);
  const refresh = () => {
    if (asking) again = true;
    else asking = ask().finally(done);
    return asking;
  };
  const done = () => {
    asking = null;
    if (again) {
      again = false;
      refresh();
    } else plan();
  };
  const ask = async () => {
    try {
      const address = `${turns.dataset.now}?after=${lastRun}&watch=${watched().join(",")}`;
      const answer = await fetch(address, { headers: { Accept: "application/json" } });
      if (answer.redirected || answer.status === 403) return loggedOut();
      if (answer.status === 404) {
        gone = true;
        return say("This session is gone.");
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const news = await answer.json();
      keepingPlace(() => take(news));
      if (connection.textContent.startsWith("The server")) say("");
    } catch {
      say("The server does not answer; trying again");
    }
    return undefined;
  };
  const take = (news) => {
    if (complete) append(news.html);
    for (const [run, html] of Object.entries(news.outcomes)) {
      const turn = turns.querySelector(`[data-turn="${run}"][data-open]:not([data-open="0"])`);
      if (turn) showOutcome(turn, html);
    }
    parse(news.parts).querySelectorAll("[data-part]").forEach(replacePart);
    followAll();
  };
  const append = (html) => {
    const fresh = parse(html);
    for (const turn of fresh.querySelectorAll("[data-turn]")) lastRun = Math.max(lastRun, Number(turn.dataset.turn));
    if (!fresh.firstElementChild) return;
    turns.querySelectorAll(":scope > p").forEach((empty) => empty.remove());
    turns.append(fresh);
  };
  const showOutcome = (turn, html) => {
    const old = turn.querySelector("[data-outcome]");
    const fresh = parse(html).firstElementChild;
    if (old) old.replaceWith(fresh);
    else turn.append(fresh);
    if (turn.dataset.open === "ended") turn.dataset.open = "0";
  };
  const replacePart = (part) => {
    const old = document.querySelector(`[data-part="${part.dataset.part}"]`);
    if (!old || isSame(old, part)) return;
    // Whoever stands on a button with the keyboard goes on standing there.
    const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    old.replaceWith(part);
    if (focused) part.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    if (part.dataset.part === "verdict") offer(part.dataset.mode);
  };
  // Each answer carries a token of its own, and times are written by a script.
  const isSame = (old, part) => {
    const key = "html" in old.dataset ? old.dataset.html : "";
    const text = part.innerHTML.replace(/name="csrfmiddlewaretoken" value="[^"]*"/g, "");
    part.dataset.html = text;
    return key === text;
  };
  const offer = (mode) => {
    if (!form) return;
    document.querySelector("[data-box]").hidden = !mode;
    ways.forEach((button) => (button.hidden = button.value !== mode));
  };
  const plan = () => {
    clearTimeout(timer);
    if (document.hidden || gone) return;
    const busy = turns.querySelector('[data-open="1"]') || document.querySelector(".own-queue");
    timer = setTimeout(refresh, busy ? SOON : LATER);
  };

  // Earlier turns, when the reader comes near them.
  const loadEarlier = async () => {
    if (fetching || earlier.hidden) return;
    fetching = true;
    try {
      const answer = await fetch(`${turns.dataset.now}?before=${earlier.dataset.earlier}`);
      if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
      const news = await answer.json();
      const anchor = turns.firstElementChild;
      const top = anchor.getBoundingClientRect().top;
      turns.prepend(parse(news.html));
      scrollBy({ top: anchor.getBoundingClientRect().top - top, behavior: "instant" });
      earlier.dataset.earlier = news.earlier;
      earlier.href = `?before=${news.earlier}`;
      earlier.hidden = !news.earlier;
    } catch {
      // The link is still there.
    }
    fetching = false;
  };

  // Writing.
  const draftName = form && `draft:${form.dataset.composer}`;
  const keepDraft = () => {
    if (field.value) sessionStorage.setItem(draftName, field.value);
    else sessionStorage.removeItem(draftName);
  };
  const complain = (text) => {
    complaint.textContent = text;
    complaint.hidden = !text;
  };
  const send = async (button) => {
    if (form.dataset.busy) return;
    form.dataset.busy = "1";
    button.classList.add("btn-loading");
    const typed = field.value;
    try {
      const answer = await fetch(location.pathname, {
        method: "POST",
        body: new FormData(form, button),
        headers: { Accept: "application/json" },
      });
      if (answer.redirected || answer.status === 401) loggedOut();
      else if (answer.status === 422) complain((await answer.json()).error);
      else if (!answer.ok) throw new Error(String(answer.status));
      else sent(typed, button.value, (await answer.json()).url);
    } catch {
      complain("The server did not take the message. What you typed is kept; send it again.");
    }
    delete form.dataset.busy;
    button.classList.remove("btn-loading");
  };
  const sent = (typed, mode, url) => {
    complain("");
    // What was typed meanwhile belongs to the next message.
    field.value = field.value.startsWith(typed) ? field.value.slice(typed.length) : field.value;
    keepDraft();
    [...form.elements].filter((each) => each.type === "file").forEach((input) => (input.value = ""));
    form.querySelector("details").open = false;
    if (mode === "fork" || !complete) return location.assign(url);
    toEnd();
    return refresh();
  };
  const quietly = async (quiet) => {
    quiet.querySelector("button").disabled = true;
    try {
      const body = new FormData(quiet);
      const answer = await fetch(quiet.action, { method: "POST", body, redirect: "manual" });
      if (answer.type !== "opaqueredirect" && !answer.ok) throw new Error(String(answer.status));
      await refresh();
    } catch {
      say("The server did not take it; try again.");
    }
    quiet.querySelector("button").disabled = false;
  };

  if (form) {
    field.value = field.value || sessionStorage.getItem(draftName) || "";
    field.addEventListener("input", keepDraft);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") field.blur();
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      form.requestSubmit(way());
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send(event.submitter || way());
    });
  }
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-quietly]")) return;
    event.preventDefault();
    quietly(event.target);
  });
  earlier.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    loadEarlier();
  });
  newest.addEventListener("click", () => (complete ? toEnd() : location.assign(newest.dataset.href)));
  let lastY = scrollY;
  addEventListener(
    "scroll",
    () => {
      if (scrollY < lastY && earlier.getBoundingClientRect().bottom > -800) loadEarlier();
      lastY = scrollY;
      offerNewest();
    },
    { passive: true },
  );
  addEventListener("resize", offerNewest);
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));

  // An address may lead to what is folded away.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    const fold = target && target.closest("details:not([open])");
    if (fold) fold.open = true;
    if (target && fold) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  if (complete && (!location.hash || location.hash === "#newest")) toEnd();
  else reveal();
  offerNewest();
  if (complete) followAll();
  plan();
})();
