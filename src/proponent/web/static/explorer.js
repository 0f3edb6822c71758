// Keys and focus; everything works without this file. No inline handlers, no evaluation, nothing is sent anywhere else.
"use strict";
(() => {
  const ROW = ".wh-row, .wh-hits > li";
  const rows = () => [...document.querySelectorAll(ROW)];
  let reading = false;

  const current = () => document.activeElement?.closest(ROW);

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

  const say = (text) => { const line = document.getElementById("said"); if (line) line.textContent = text; };

  let pressed = false;  // a decision by key goes on to the next row
  const press = (key) => {
    const place = key === "u" ? document : current() || document.querySelector(".wh-one");
    const button = place?.querySelector(`[data-key="${key}"]`);
    if (!button) return;
    const label = key === "f" && button.form.elements.label;
    if (label && !label.value) {  // nothing speaks against this label: the person says what is right
      label.focus();
      say("Nothing speaks against this label. Choose the right one, then press Enter.");
      return;
    }
    pressed = key !== "u";
    button.click();
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
    if (event.key === "Enter" && event.target.matches(".wh-fix select")) {
      event.preventDefault();
      pressed = Boolean(event.target.value);
      event.target.form.querySelector('[data-key="f"]').click();
      return;
    }
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
    reading = keysShown();
    held = place(event.detail.requestConfig.elt);
  });
  document.addEventListener("htmx:afterSwap", () => {
    if (reading && !keysShown()) document.getElementById("keys")?.showModal();
    reading = false;
  });
  document.addEventListener("htmx:afterSettle", () => {
    say("");
    if (held) hold(held);
    held = null;
    pressed = false;
    if (location.hash) arrive();
  });

  // What a person looks at stays where it is on the screen, whatever a decision or an update changes around it.
  let held = null;
  const example = (row) => row?.querySelector('form [name="id"]')?.value;
  const place = (from) => {
    if (!from.closest('[hx-swap*="show:none"]')) return null;
    const row = from.closest(ROW) || current();
    return { y: scrollY, id: row?.id, top: row?.getBoundingClientRect().top, example: example(row), on: pressed };
  };
  const hold = (before) => {
    const row = before.id && document.getElementById(before.id);
    if (!row) { scrollTo(0, before.y); return; }
    scrollBy(0, row.getBoundingClientRect().top - before.top);
    if (before.on) {
      if (!row.hasAttribute("tabindex")) row.tabIndex = -1;
      row.focus({ preventScroll: true });
      if (example(row) === before.example) move(1);  // else the row has left the list, and the next one took its place
    } else if (document.activeElement === document.body) {
      row.focus({ preventScroll: true });
    }
  };

  // A link to a row of a list ends there, in the middle of the screen.
  const arrive = () => {
    const row = document.getElementById(location.hash.slice(1));
    if (!row?.matches(ROW)) return;
    row.focus({ preventScroll: true });
    row.scrollIntoView({ block: "center" });
  };

  // Back and Reload return to the place: each address remembers, in this tab alone, its scroll and its focus.
  const PLACES = "proponent-places", MOST = 60;
  history.scrollRestoration = "manual";
  const here = () => location.pathname + location.search;
  const places = () => { try { return JSON.parse(sessionStorage.getItem(PLACES)) || {}; } catch { return {}; } };
  let returning = false;
  const remember = (from) => {
    if (returning) return;
    const own = (one) => one?.getAttribute?.("id") || "";  // a form gives its field named "id" as .id
    const all = places(), focus = own(from?.closest?.(ROW)) || own(from) || own(current());
    delete all[here()];
    all[here()] = { y: scrollY, focus };
    for (const one of Object.keys(all).slice(0, -MOST)) delete all[one];
    try { sessionStorage.setItem(PLACES, JSON.stringify(all)); } catch { /* no storage: the page begins at its top */ }
  };
  addEventListener("popstate", () => { returning = true; });
  addEventListener("pagehide", () => remember(document.activeElement));
  document.addEventListener("htmx:beforeRequest", (event) => remember(event.detail.elt));
  addEventListener("load", () => {
    const kind = performance.getEntriesByType("navigation")[0]?.type;
    const known = (kind === "reload" || kind === "back_forward") && places()[here()];
    if (!known) { arrive(); return; }
    const focus = known.focus && document.getElementById(known.focus);
    if (focus) {
      if (focus.matches(ROW) && !focus.hasAttribute("tabindex")) focus.tabIndex = -1;
      focus.focus({ preventScroll: true });
    }
    scrollTo(0, known.y);
  });

  // A file that is dropped on the form of a test set is sent at once; one that is too large is not sent at all.
  const dropped = (event) => event.target.closest?.("[data-drop]");
  const fits = (form) => {
    const file = form.querySelector('input[type="file"]').files[0];
    const large = Boolean(file) && file.size > Number(form.dataset.most);
    form.querySelector(".wh-too-large").hidden = !large;
    return !large;
  };
  document.addEventListener("dragover", (event) => {
    const form = dropped(event);
    if (!form) return;
    event.preventDefault();
    form.classList.add("wh-over");
  });
  document.addEventListener("dragleave", (event) => dropped(event)?.classList.remove("wh-over"));
  document.addEventListener("drop", (event) => {
    const form = dropped(event);
    if (!form) return;
    event.preventDefault();
    form.classList.remove("wh-over");
    if (!event.dataTransfer.files.length) return;
    form.querySelector('input[type="file"]').files = event.dataTransfer.files;
    form.requestSubmit();
  });
  document.addEventListener("submit", (event) => {
    if (event.target.matches("[data-drop]") && !fits(event.target)) event.preventDefault();
  });
})();
