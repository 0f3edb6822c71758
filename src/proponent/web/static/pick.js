// Choose a piece of an answer: by mouse, by touch, by keys. Without this file the text field takes it.
"use strict";
(() => {
  document.documentElement.dataset.script = "";
  let anchor = null;
  let dragging = false;

  const words = (word) => [...word.closest(".wh-pick-words").querySelectorAll(".wh-pick-word")];
  // Places count characters, and a string of this language counts some of them twice.
  const slice = (text, start, end) => Array.from(text).slice(start, end).join("");

  const answerOf = (form) => (form.querySelector('[name="target"]') || form.querySelector('[name="text"]')).value;

  const choose = (from, to) => {
    const all = words(to);
    const [first, last] = [all.indexOf(from), all.indexOf(to)].sort((a, b) => a - b);
    const start = Number(all[first].dataset.at), end = Number(all[last].dataset.end);
    all.forEach((one, at) => one.setAttribute("aria-pressed", String(first <= at && at <= last)));
    for (const gap of to.closest(".wh-pick-words").querySelectorAll(".wh-pick-gap"))
      gap.classList.toggle("wh-on", start < Number(gap.dataset.at) && Number(gap.dataset.at) < end);
    const form = to.form;
    form.elements.span.value = slice(answerOf(form), start, end);
    form.elements.at.value = start;
  };

  const clear = (form) => {
    anchor = null;
    form.elements.span.value = form.elements.at.value = "";
    for (const one of form.querySelectorAll(".wh-pick-word")) one.setAttribute("aria-pressed", "false");
    for (const one of form.querySelectorAll(".wh-pick-gap")) one.classList.remove("wh-on");
  };

  const focus = (word) => {
    for (const one of words(word)) one.tabIndex = one === word ? 0 : -1;
    word.focus({ preventScroll: true });
  };

  const under = (event) => document.elementFromPoint(event.clientX, event.clientY)?.closest(".wh-pick-word");

  document.addEventListener("pointerdown", (event) => {
    const word = event.target.closest(".wh-pick-word");
    if (!word || event.button !== 0) return;
    if (event.pointerType !== "touch") event.preventDefault();  // no text selection beside ours
    word.releasePointerCapture?.(event.pointerId);
    if (!event.shiftKey || !anchor?.isConnected || anchor.form !== word.form) anchor = word;
    dragging = true;
    choose(anchor, word);
    focus(word);
  });
  document.addEventListener("pointermove", (event) => {
    const word = dragging && under(event);
    if (word && anchor && word.form === anchor.form) choose(anchor, word);
  });
  for (const name of ["pointerup", "pointercancel"])
    document.addEventListener(name, () => { dragging = false; });

  document.addEventListener("keydown", (event) => {
    const word = event.target.closest?.(".wh-pick-word");
    if (!word || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = words(word), at = all.indexOf(word);
    const to = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: all.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      const next = all[Math.max(0, Math.min(all.length - 1, to))];
      if (event.shiftKey) {
        if (anchor?.form !== word.form || !anchor.isConnected) anchor = word;
        choose(anchor, next);
      } else {
        anchor = null;
      }
      focus(next);
    } else if (event.key === " ") {
      event.preventDefault();
      anchor = word;
      choose(word, word);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (!word.form.elements.span.value) choose(word, word);
      word.form.requestSubmit();
    } else if (event.key === "Escape") {
      event.preventDefault();
      clear(word.form);
    }
  });

  // A piece that was typed has no place: the first one in the answer is meant.
  document.addEventListener("input", (event) => {
    if (event.target.matches?.('[name="span"]') && event.target.form?.elements.at) event.target.form.elements.at.value = "";
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-take]");
    if (!button) return;
    const field = button.form.querySelector("[data-answer]");
    const text = field.value.slice(field.selectionStart, field.selectionEnd);
    if (!text) return;
    button.form.elements.span.value = text.trim();
    button.form.elements.at.value = Array.from(field.value.slice(0, field.selectionStart + text.indexOf(text.trim()))).length;
  });
})();
