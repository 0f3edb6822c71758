// Keys and focus; everything works without this file. No inline handlers, no evaluation, nothing is sent anywhere else.
"use strict";
(() => {
  const rows = () => [...document.querySelectorAll(".wh-row, .wh-hits > li")];
  let last = "";

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
    "?": () => document.getElementById("keys")?.showModal(),
    Enter: () => current()?.querySelector(".wh-open, .wh-id a")?.click(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const typing = event.target.closest("input, textarea, select, dialog");
    if (event.key === "Escape" && typing) { typing.blur(); return; }
    if (typing) return;
    if (event.key === "Enter" && event.target.closest("a, button, summary")) return;
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // A swap of the page must not take the place away from people who use the keyboard.
  document.addEventListener("htmx:beforeSwap", () => { last = current()?.id || ""; });
  document.addEventListener("htmx:afterSettle", () => {
    const row = last && document.getElementById(last);
    if (row && document.activeElement === document.body) row.focus({ preventScroll: true });
    last = "";
  });
})();
