// The bars of a strip: arrow keys go from one run to the next, so that the tabulator meets each strip once.
"use strict";
document.addEventListener("keydown", (event) => {
  const bar = event.target.closest && event.target.closest(".own-bar");
  if (!bar || event.altKey || event.ctrlKey || event.metaKey) return;
  const bars = [...bar.parentElement.querySelectorAll(".own-bar")];
  const at = bars.indexOf(bar);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: bars.length - 1 }[event.key];
  if (to === undefined || !bars[to]) return;
  event.preventDefault();
  bar.setAttribute("tabindex", "-1");
  bars[to].removeAttribute("tabindex");
  bars[to].focus();
});
