// followRun: what happens in a live run as it comes, by server-sent events, or by asking again and again
// when a proxy holds those back.
"use strict";
window.followRun = ({ events, stream, login, after, add, replace, say, end }) => {
  const PATIENCE = 5000; // milliseconds until a silent stream is given up
  const EVERY = 1000; // milliseconds between questions when there is no stream
  let last = after;
  let source = null;
  let polling = false;
  let ended = false;

  const take = (seq, html) => {
    last = Math.max(last, seq);
    add(seq, html);
  };
  const finish = () => {
    ended = true;
    if (source) source.close();
    source = null;
    end();
  };
  const loggedOut = () => {
    const link = document.createElement("a");
    link.href = login;
    link.textContent = "Log in again";
    say("You were logged out. ", link);
  };
  const listen = () => {
    let heard = false;
    let errors = 0;
    const hear = () => {
      heard = true;
      errors = 0;
      say("Live");
    };
    source = new EventSource(`${stream}?after=${last}`);
    source.addEventListener("event", (message) => {
      hear();
      take(Number(message.lastEventId), message.data);
    });
    source.addEventListener("facts", (message) => {
      hear();
      replace(message.data);
    });
    source.addEventListener("end", finish);
    source.addEventListener("error", () => {
      errors += 1;
      if (ended) return;
      say("The connection was lost; trying again");
      if (errors >= 3 || source.readyState === EventSource.CLOSED) poll();
    });
    setTimeout(() => {
      if (!heard && !ended) poll();
    }, PATIENCE);
  };
  const poll = () => {
    if (source) source.close();
    source = null;
    if (!polling) ask();
    polling = true;
  };
  const ask = async () => {
    let wait = EVERY;
    try {
      const answer = await fetch(`${events}?after=${last}`, { headers: { Accept: "application/json" } });
      if (answer.status === 401) return loggedOut();
      if (answer.status === 404) return say("This run is gone.");
      if (!answer.ok) throw new Error(String(answer.status));
      const news = await answer.json();
      news.events.forEach((event) => take(event.seq, event.html));
      replace(news.facts);
      say("Live, asking every second");
      if (news.ended) return finish();
      if (news.events.length) wait = 100;
    } catch {
      say("The server does not answer; trying again");
      wait = 3 * EVERY;
    }
    return setTimeout(ask, wait);
  };

  listen();
};
