// data-copies: a button that copies the text beside it, which is marked data-text.
"use strict";
(() => {
  // Browsers copy for pages that came by https or from this machine.
  if (!navigator.clipboard) return;
  document.body.dataset.canCopy = "";
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copies]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.parentElement.querySelector("[data-text]").textContent);
      button.textContent = "copied";
    } catch {
      button.textContent = "not copied";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
})();
