// data-key="f": the key that presses a button, follows a link or goes to a field, unless somebody is typing.
"use strict";
(() => {
  const FIELDS = "input, textarea, select, [contenteditable]";

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target instanceof Element && event.target.closest(FIELDS)) return;
    const element = [...document.querySelectorAll("[data-key]")].find((each) => each.dataset.key === event.key);
    if (!element) return;
    event.preventDefault();
    if (element.matches(FIELDS)) element.focus();
    else element.click();
  });
})();
