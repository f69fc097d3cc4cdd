// Light, dark or like the system. Loaded before the page is drawn, so that nothing flashes.
"use strict";
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem("theme") || "system";
    } catch {
      return "system";
    }
  };
  const show = () => {
    const choice = stored();
    const dark = choice === "dark" || (choice !== "light" && system.matches);
    document.documentElement.dataset.bsTheme = dark ? "dark" : "light";
    document.querySelectorAll("button[data-theme]").forEach((button) => {
      button.classList.toggle("active", button.dataset.theme === choice);
    });
  };
  show();
  system.addEventListener("change", show);
  document.addEventListener("DOMContentLoaded", show);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-theme]");
    if (!button) return;
    try {
      localStorage.setItem("theme", button.dataset.theme);
    } catch {
      // Without storage the choice lasts as long as the page.
      document.documentElement.dataset.bsTheme = button.dataset.theme === "dark" ? "dark" : "light";
      return;
    }
    show();
  });
})();
