// data-notify: a button that asks for a notification when the run of this page has ended. What was asked
// for is remembered by this browser; it is told as long as the page is open in one of its tabs.
"use strict";
(() => {
  const button = document.querySelector("[data-notify]");
  if (!button || !("Notification" in window) || !isSecureContext) return;

  const key = `notify ${button.dataset.notify}`;
  // Without storage the wish lasts as long as the page.
  let wanted = false;
  const remember = () => {
    try {
      if (wanted) localStorage.setItem(key, "1");
      else localStorage.removeItem(key);
    } catch {
      // It is in `wanted`.
    }
  };
  const recall = () => {
    try {
      wanted = localStorage.getItem(key) === "1" && Notification.permission === "granted";
    } catch {
      wanted = false;
    }
  };
  const show = () => {
    button.hidden = false;
    button.setAttribute("aria-pressed", String(wanted));
    button.classList.toggle("active", wanted);
    button.querySelector("[data-label]").textContent = wanted ? "Notification on" : "Notify me";
    button.title = wanted
      ? "You are notified when this run ends, as long as this page is open."
      : "Be notified when this run ends, as long as this page is open.";
  };
  const refused = () => {
    button.disabled = true;
    button.querySelector("[data-label]").textContent = "Blocked by the browser";
    button.title = "This browser blocks notifications of this site. Its settings of the site allow them.";
  };

  button.addEventListener("click", async () => {
    if (!wanted && (await Notification.requestPermission()) !== "granted") return refused();
    wanted = !wanted;
    remember();
    return show();
  });
  document.addEventListener("run-ended", (event) => {
    const { state, icon } = event.detail;
    if (wanted) tell(`${button.dataset.name}: ${state.replace("_", " ")}`, icon);
    wanted = false;
    remember();
  });
  const tell = (title, icon) => {
    try {
      // One for all tabs of the run.
      const note = new Notification(title, { body: button.dataset.body, icon, tag: key });
      note.addEventListener("click", () => {
        focus();
        note.close();
      });
    } catch {
      // Some telephones have the name of this but not the thing; the title and the icon say it.
    }
  };

  recall();
  show();
})();
