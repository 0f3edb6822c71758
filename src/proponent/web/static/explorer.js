// Keys and focus; everything works without this file. No inline handlers, no evaluation, nothing is sent anywhere else.
"use strict";
(() => {
  const rows = () => [...document.querySelectorAll(".wh-row, .wh-hits > li")];
  let last = "";
  let reading = false;

  const current = () => document.activeElement?.closest(".wh-row, .wh-hits > li");

  const move = (by) => {
    const all = rows();
    if (!all.length) return;
    const here = current();
    const at = here ? all.indexOf(here) + by : 0;
    const next = all[Math.max(0, Math.min(all.length - 1, at))];
    if (!next.hasAttribute("tabindex")) next.tabIndex = -1;
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  };

  const press = (key) => {
    const place = key === "u" ? document : current();
    const button = place?.querySelector(`[data-key="${key}"]`);
    if (button) button.click();
  };

  const keys = {
    "/": () => { const field = document.querySelector("[data-search]"); field?.closest("details")?.setAttribute("open", ""); field?.focus(); field?.select?.(); },
    j: () => move(1),
    k: () => move(-1),
    x: () => press("x"),
    f: () => press("f"),
    e: () => press("e"),
    u: () => press("u"),
    n: () => document.querySelector("a[rel=next]")?.click(),
    p: () => document.querySelector("a[rel=prev]")?.click(),
    "?": () => document.getElementById("keys")?.showModal(),
    Enter: () => current()?.querySelector(".wh-open, .wh-id a")?.click(),
  };

  // A dialog gives the focus back only to an element; from the page itself it would stay on a button nobody sees.
  const shut = (dialog) => {
    dialog.close();
    if (dialog.contains(document.activeElement)) document.activeElement.blur();
  };
  document.addEventListener("close", (event) => shut(event.target), true);

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.matches("textarea")) {
      event.preventDefault();
      event.target.form?.requestSubmit();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const typing = event.target.closest("input, textarea, select, dialog[open]");
    if (event.key === "Escape" && typing) {
      event.preventDefault();  // a browser would empty a search field, and so search anew for everything
      if (typing.matches("dialog")) shut(typing); else typing.blur();
      return;
    }
    if (typing) return;
    if (event.key === "Enter" && event.target.closest("a, button, summary")) return;
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // A swap of the page must not take the place away from people who use the keyboard, nor what they are typing or reading.
  const keysShown = () => document.getElementById("keys")?.open;
  const overtaken = (detail) => {
    const field = document.getElementById("q");
    const asked = detail.requestConfig?.elt.matches(".wh-search") ? detail.requestConfig.formData.get("q") : null;
    return field && asked !== null && field.value !== asked && detail.xhr.status === 200;
  };

  document.addEventListener("htmx:beforeSwap", (event) => {
    if (overtaken(event.detail)) {
      event.detail.shouldSwap = false;  // the search that was typed since is on its way
      return;
    }
    last = current()?.id || "";
    reading = keysShown();
  });
  document.addEventListener("htmx:afterSwap", () => {
    if (reading && !keysShown()) document.getElementById("keys")?.showModal();
    reading = false;
  });
  document.addEventListener("htmx:afterSettle", () => {
    const row = last && document.getElementById(last);
    if (row && document.activeElement === document.body) row.focus({ preventScroll: true });
    last = "";
  });
})();
