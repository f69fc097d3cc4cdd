// <time data-local>: in the reader's own zone, the exact instant on hover.
// [data-since]: how long ago that was, counting. [data-until]: how long until then, after the words of
// data-before, and when that is over the words of data-over.
"use strict";
(() => {
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
  const year = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });

  const text = (moment, onlyClock) => {
    const now = new Date();
    if (onlyClock || moment.toDateString() === now.toDateString()) return clock.format(moment);
    const date = moment.getFullYear() === now.getFullYear() ? day : year;
    return `${date.format(moment)}, ${clock.format(moment)}`;
  };
  const localise = (element) => {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.getTime())) return;
    element.textContent = text(moment, element.dataset.local === "clock");
    element.title = moment.toISOString();
  };
  const two = (number) => String(number).padStart(2, "0");
  const passed = (seconds) => {
    const minutes = Math.floor(seconds / 60);
    if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
    return minutes ? `${minutes} min ${two(seconds % 60)} s` : `${seconds} s`;
  };
  const count = (element) => {
    const seconds = Math.floor((Date.now() - new Date(element.dataset.since).getTime()) / 1000);
    element.textContent = passed(Math.max(0, seconds));
  };
  const countDown = (element) => {
    const { until, before = "", over = "" } = element.dataset;
    const seconds = Math.ceil((new Date(until).getTime() - Date.now()) / 1000);
    const text = seconds > 0 ? before + passed(seconds) : over;
    if (element.textContent !== text) element.textContent = text;
  };
  const all = (root) => {
    root.querySelectorAll("time[data-local]").forEach(localise);
    root.querySelectorAll("[data-since]").forEach(count);
    root.querySelectorAll("[data-until]").forEach(countDown);
  };

  all(document);
  setInterval(() => {
    document.querySelectorAll("[data-since]").forEach(count);
    document.querySelectorAll("[data-until]").forEach(countDown);
  }, 1000);
  new MutationObserver((changes) => {
    for (const change of changes) {
      for (const node of change.addedNodes) if (node.nodeType === Node.ELEMENT_NODE) all(node);
    }
  }).observe(document.body, { childList: true, subtree: true });
})();
