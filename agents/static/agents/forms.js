// data-once: a form is sent once. data-submit-keys: Ctrl+Enter sends it. data-submit-on-change: so
// does a choice. data-unless="mode=new": shown unless that radio button is chosen. data-lean: what is
// left empty, or at the first choice, is not sent, so that addresses stay short. data-at-most and
// data-in-all: files of more bytes than that are not sent, and the reason is said.
"use strict";
(() => {
  document.querySelectorAll("form[data-once]").forEach((form) => {
    form.addEventListener("submit", (event) => {
      if (form.dataset.sent) event.preventDefault();
      form.dataset.sent = "1";
      form.querySelectorAll("button[type=submit]").forEach((button) => button.classList.add("btn-loading"));
    });
  });
  // A page that comes back from the browser's history can be used again.
  addEventListener("pageshow", () => {
    document.querySelectorAll("form[data-once]").forEach((form) => {
      delete form.dataset.sent;
      form.querySelectorAll("button[type=submit]").forEach((button) => button.classList.remove("btn-loading"));
    });
  });
  const empty = (form) => [...form.elements].filter((field) => field.name && (!field.value || field.selectedIndex === 0));
  document.querySelectorAll("form[data-lean]").forEach((form) => {
    form.addEventListener("submit", () => empty(form).forEach((field) => (field.disabled = true)));
    addEventListener("pageshow", () => empty(form).forEach((field) => (field.disabled = false)));
  });
  document.querySelectorAll("[data-submit-keys]").forEach((field) => {
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      const buttons = field.form.querySelectorAll("button[type=submit]");
      field.form.requestSubmit(buttons[buttons.length - 1]);
    });
  });
  document.querySelectorAll("[data-submit-on-change]").forEach((field) => {
    field.addEventListener("change", () => field.form.requestSubmit());
  });
  document.querySelectorAll("[data-unless]").forEach((field) => {
    const [name, value] = field.dataset.unless.split("=");
    const show = () => {
      field.hidden = field.form.elements[name].value === value;
    };
    field.form.addEventListener("change", show);
    show();
  });
  const large = (file) => `${file.name} has ${(file.size / 1048576).toFixed(1)} MB`;
  const limit = (bytes) => `${(bytes / 1048576).toFixed(1)} MB`;
  document.querySelectorAll("input[data-at-most]").forEach((field) => {
    field.addEventListener("change", () => {
      const files = [...field.files];
      const one = files.find((file) => file.size > field.dataset.atMost);
      const all = files.reduce((sum, file) => sum + file.size, 0);
      let complaint = one ? `${large(one)}; the limit of a file is ${limit(field.dataset.atMost)}.` : "";
      if (!one && all > field.dataset.inAll) {
        complaint = `All files together have ${limit(all)}; the limit is ${limit(field.dataset.inAll)}.`;
      }
      field.setCustomValidity(complaint);
      field.reportValidity();
    });
  });
  document.querySelectorAll("details[data-fold-when-narrow]").forEach((details) => {
    if (matchMedia("(max-width: 991px)").matches) details.open = false;
  });
})();
