// situs report: theme, training time, table of contents. Works without it, at the last step.
"use strict";
(() => {
  const each = (selector, act, root = document) => root.querySelectorAll(selector).forEach(act);

  // Colours: as the system, light, dark.
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const themes = [["", "◐", "as the system"], ["light", "○", "light"], ["dark", "●", "dark"]];
  const remembered = () => { try { return localStorage.getItem("situs-theme") || ""; } catch { return ""; } };
  const paint = (name) => {
    const [value, sign, words] = themes.find((t) => t[0] === name) || themes[0];
    if (value) root.dataset.theme = value; else delete root.dataset.theme;
    if (button) { button.textContent = sign; button.setAttribute("aria-label", `Colours: ${words}`); button.title = `Colours: ${words}`; }
  };
  paint(remembered());
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const at = themes.findIndex((t) => t[0] === (root.dataset.theme || ""));
      const next = themes[(at + 1) % themes.length][0];
      try { localStorage.setItem("situs-theme", next); } catch { /* private window */ }
      paint(next);
    });
  }

  // Training time: all sliders move together, each to the step nearest to the one asked for.
  const state = { step: null };
  const nearest = (steps, step) => steps.reduce((a, b) => (Math.abs(b - step) < Math.abs(a - step) ? b : a));
  const show = (step) => {
    state.step = step;
    each("input[data-steps]", (slider) => {
      const steps = slider.dataset.steps.split(",").map(Number);
      const here = nearest(steps, step);
      slider.value = steps.indexOf(here);
      slider.setAttribute("aria-valuetext", `step ${here}`);
      slider.parentElement.querySelector("output").textContent = `step ${here}`;
      const section = slider.closest("section");
      const groups = new Map();
      each("[data-step]", (node) => {
        if (!groups.has(node.parentElement)) groups.set(node.parentElement, []);
        groups.get(node.parentElement).push(node);
      }, section);
      groups.forEach((nodes) => {
        const chosen = nearest(nodes.map((n) => Number(n.dataset.step)), here);
        nodes.forEach((n) => { n.hidden = Number(n.dataset.step) !== chosen; });
      });
    });
    document.dispatchEvent(new CustomEvent("situs-step", { detail: step }));
  };
  each("input[data-steps]", (slider) => {
    slider.parentElement.hidden = false;
    slider.addEventListener("input", () => show(Number(slider.dataset.steps.split(",")[slider.value])));
  });
  window.situs = { state, show };

  // Table of contents: where am I.
  const links = new Map();
  each(".contents a", (a) => links.set(a.getAttribute("href").slice(1), a));
  if ("IntersectionObserver" in window && links.size) {
    const seen = new IntersectionObserver((entries) => {
      entries.forEach((entry) => {
        if (!entry.isIntersecting) return;
        links.forEach((a, id) => a.classList.toggle("here", id === entry.target.id));
      });
    }, { rootMargin: "-20% 0px -70% 0px" });
    each("main > section[id]", (section) => seen.observe(section));
  }

  addEventListener("beforeprint", () => each("details", (d) => { d.dataset.was = d.open ? "1" : ""; d.open = !d.querySelector("pre"); }));
  addEventListener("afterprint", () => each("details", (d) => { d.open = d.dataset.was === "1"; }));
})();
