// The 3D viewer: one NiiVue for the whole page, moved into the section that asks for it.
// Files are inside the page (or, for a report folder, beside it as scripts); nothing is fetched.
"use strict";
(() => {
  const holder = document.getElementById("situs-scenes");
  if (!holder) return;
  const SCENES = JSON.parse(holder.textContent);
  const external = {};
  window.situsAsset = (key, text) => { external[key] = text; };

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [k, v] of Object.entries(attributes)) {
      if (k in node && k !== "list") node[k] = v; else node.setAttribute(k, v);
    }
    node.append(...children);
    return node;
  };
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const script = (source) => new Promise((resolve, reject) => {
    document.head.append(make("script", { src: source, onload: resolve, onerror: () => reject(new Error(`${source} is missing beside this page`)) }));
  });
  async function asset(key) {
    const inside = document.querySelector(`script[data-asset="${key}"]`);
    if (inside) return bytes(inside.textContent).buffer;
    if (!(key in external)) await script(`assets/${key}.js`);
    return bytes(external[key]).buffer;
  }
  async function library() {
    if (window.niivue) return window.niivue;
    const stream = new Blob([await asset("niivue")]).stream().pipeThrough(new DecompressionStream("gzip"));
    document.head.append(make("script", { textContent: await new Response(stream).text() }));
    return window.niivue;
  }

  const supported = () => {
    try { return !!document.createElement("canvas").getContext("webgl2") && "DecompressionStream" in window; } catch { return false; }
  };
  // The colour of a label: nothing for 0, and from the start again after the last.
  const tint = (palette, n) => (n === 0 ? palette[0] : palette[(n - 1) % (palette.length - 1) + 1]);
  const VIEWS = [["All", "multiplanar"], ["Axial", "axial"], ["Coronal", "coronal"], ["Sagittal", "sagittal"], ["3D", "render"]];

  class Viewer {
    constructor() {
      this.canvas = make("canvas", { tabIndex: 0 });
      this.canvas.setAttribute("aria-label", "3D view of the scan; drag to turn, scroll to move through slices");
      this.wait = make("div", { className: "v-wait" });
      this.stage = make("div", { className: "v-stage" }, this.canvas, this.wait);
      this.side = make("div", { className: "v-side" });
      this.queue = Promise.resolve();
      this.switches = new Map(); // remembered by kind and name of a layer
      this.base = null;
      this.view = "multiplanar";
      this.cut = false;
    }
    async start() {
      if (this.nv) return;
      const lib = await library();
      this.lib = lib;
      this.nv = new lib.Niivue({
        backColor: [0, 0, 0, 1], isRadiologicalConvention: true, sagittalNoseLeft: true, show3Dcrosshair: false,
        crosshairColor: [1, 1, 1, 0.35], crosshairWidth: 0.2, crosshairWidthUnit: "percent", multiplanarLayout: 2, dragAndDropEnabled: false, logLevel: "error", loadingText: "",
        scrollRequiresFocus: true, meshXRay: 0.7, isColorbar: false, fontColor: [1, 1, 1, 1], multiplanarShowRender: 1,
      });
      await this.nv.attachToCanvas(this.canvas);
    }
    open(section, home) {
      this.home = home;
      document.querySelectorAll(".viewer").forEach((v) => {
        v.querySelector(".v-body").hidden = v !== home;
        v.querySelector(".v-bar").hidden = v === home;
      });
      home.querySelector(".v-body").replaceChildren(this.stage, this.side);
      this.section = section;
      this.panels = SCENES.sections[section];
      this.panel = 0;
      this.draw();
    }
    scene() {
      const steps = this.panels[this.panel].steps;
      const known = Object.keys(steps).map(Number);
      const wanted = window.situs.state.step ?? Math.max(...known);
      return steps[known.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a))];
    }
    draw() {
      if (!this.panels) return this.queue;
      const scene = this.scene();
      this.controls(scene);
      this.queue = this.queue.then(() => this.load(scene)).catch((error) => this.say(`The viewer stopped: ${error.message}`));
      return this.queue;
    }
    say(text) { this.wait.textContent = text; this.wait.hidden = !text; }
    async load(scene) {
      if (scene !== this.scene()) return; // a newer wish is already waiting
      if (!this.nv) this.say("Opening the viewer …");
      await this.start();
      const nv = this.nv;
      const [first, ...rest] = scene.layers;
      const keep = this.base === first.asset && nv.volumes.length > 0;
      this.shown = [];
      await this.once(() => {
        [...nv.meshes].forEach((mesh) => nv.removeMesh(mesh));
        [...nv.volumes].reverse().forEach((volume, n, all) => { if (!(keep && n === all.length - 1)) nv.removeVolume(volume); });
      });
      if (keep) this.shown.push({ layer: first, volume: nv.volumes[0] });
      else { await this.add(first); this.base = first.asset; this.turn(); }
      await this.once(async () => {
        for (const layer of rest) await this.add(layer);
        this.shown.forEach((item) => this.apply(item));
      });
      nv.updateGLVolume();
      nv.setSliceType(nv[{ multiplanar: "sliceTypeMultiplanar", axial: "sliceTypeAxial", coronal: "sliceTypeCoronal", sagittal: "sliceTypeSagittal", render: "sliceTypeRender" }[this.view]]);
      nv.drawScene();
      this.say("");
      this.ready = true;
    }
    // NiiVue takes all volumes to the graphics card anew for whatever changes, a mesh too, which is
    // most of the time that a scene takes: while many things change it waits, and is told once.
    async once(change) {
      this.nv.updateGLVolume = () => {};
      try { await change(); } finally { delete this.nv.updateGLVolume; }
    }
    turn() {
      this.nv.setRenderAzimuthElevation(235, 20);
      this.nv.setClipPlane(this.cut ? [0, 180, 0] : [2, 0, 0]);
    }
    async add(layer) {
      const buffer = (await asset(layer.asset)).slice(0);
      if (layer.kind === "mesh") {
        const mesh = await this.nv.addMeshFromUrl({ url: `${layer.asset}.mz3`, buffer, rgba255: [...layer.colour, 255], name: `${layer.asset}.mz3` });
        this.nv.setMeshShader(mesh.id, "Flat");
        this.shown.push({ layer, mesh });
        return;
      }
      const options = { url: `${layer.asset}.nii.gz`, buffer, name: `${layer.asset}.nii.gz`, opacity: layer.opacity, colormap: layer.kind === "heat" ? "inferno" : "gray" };
      if (layer.kind !== "colours" && layer.kind !== "labels") { options.cal_min = 0; options.cal_max = 255; options.trustCalMinMax = false; }
      if (layer.kind === "heat") options.cal_min = 8;
      const volume = await this.nv.addVolumeFromUrl(options);
      if (layer.kind === "labels") {
        const rgb = (c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16));
        const count = Math.max(2, Math.round(volume.global_max) + 1);
        const names = [...Array(count).keys()];
        const colours = names.map((n) => rgb(tint(layer.palette, n)));
        volume.setColormapLabel({ R: colours.map((c) => c[0]), G: colours.map((c) => c[1]), B: colours.map((c) => c[2]), A: names.map((n) => (n ? 255 : 0)), I: names, labels: names.map((n) => layer.labels[n] || `label ${n}`) });
        this.nv.updateGLVolume();
      } else if (layer.kind !== "colours") {
        volume.cal_min = options.cal_min; volume.cal_max = options.cal_max;
        this.nv.updateGLVolume();
      }
      this.shown.push({ layer, volume });
    }
    wished(layer) { return this.switches.get(`${layer.kind} ${layer.name}`) || layer; }
    on(layer) { return this.wished(layer).on; }
    opacity(layer) { return this.wished(layer).opacity; }
    apply({ layer, volume, mesh }) {
      if (mesh) this.nv.setMeshProperty(mesh.id, "visible", this.on(layer));
      else this.nv.setOpacity(this.nv.volumes.indexOf(volume), this.on(layer) ? this.opacity(layer) : 0);
    }
    set(layer, change) {
      this.switches.set(`${layer.kind} ${layer.name}`, { on: this.on(layer), opacity: this.opacity(layer), ...change });
      (this.shown || []).filter((item) => item.layer === layer).forEach((item) => this.apply(item));
      this.nv?.drawScene();
    }
    key(layer) { // which colour is which label
      const list = make("ul", { className: "v-key" });
      layer.labels.slice(1).forEach((name, n) => {
        const swatch = make("span", { className: "v-swatch" });
        swatch.style.background = tint(layer.palette, n + 1);
        list.append(make("li", {}, swatch, name));
      });
      return list;
    }
    controls(scene) {
      const pick = make("select", { onchange: () => { this.panel = Number(pick.value); this.draw(); } });
      pick.setAttribute("aria-label", "Scene");
      this.panels.forEach((p, n) => pick.append(make("option", { value: n, textContent: p.title, selected: n === this.panel })));
      const layers = make("fieldset", {}, make("legend", { textContent: "Layers" }));
      scene.layers.forEach((layer) => {
        const box = make("input", { type: "checkbox", checked: this.on(layer), onchange: () => this.set(layer, { on: box.checked }) });
        const row = make("label", { className: "v-layer" }, box);
        if (layer.kind === "mesh") { const s = make("span", { className: "v-swatch" }); s.style.background = `rgb(${layer.colour.join(",")})`; row.append(s); }
        row.append(make("span", { textContent: layer.name }));
        if (layer.kind !== "mesh") {
          const slide = make("input", { type: "range", min: 0, max: 1, step: 0.05, oninput: () => this.set(layer, { opacity: Number(slide.value) }) });
          slide.value = this.opacity(layer);
          slide.setAttribute("aria-label", `Opacity of ${layer.name}`);
          row.append(slide);
        }
        layers.append(row);
        if (layer.kind === "labels") layers.append(this.key(layer));
      });
      const views = make("div", { className: "v-views" });
      VIEWS.forEach(([words, name]) => {
        const b = make("button", { type: "button", textContent: words, onclick: () => { this.view = name; this.draw(); } });
        b.setAttribute("aria-pressed", String(this.view === name));
        views.append(b);
      });
      const cut = make("button", { type: "button", textContent: "Cut open", onclick: () => { this.cut = !this.cut; this.turn(); this.controls(scene); } });
      cut.setAttribute("aria-pressed", String(this.cut));
      views.append(cut);
      this.side.replaceChildren(pick, make("fieldset", {}, make("legend", { textContent: "View" }), views), layers);
    }
  }

  const viewer = new Viewer();
  window.situs.viewer = viewer;
  const buttons = document.querySelectorAll(".v-open");
  buttons.forEach((button) => {
    const home = button.closest(".viewer");
    if (!supported()) {
      button.hidden = true;
      home.querySelector(".v-note").textContent = "The 3D viewer needs WebGL 2, which this browser does not offer. The figures below show the same.";
      return;
    }
    button.addEventListener("click", () => { viewer.open(home.dataset.section, home); });
  });
  document.addEventListener("situs-step", () => { if (viewer.panels) viewer.draw(); });
  // The first viewer opens by itself when it comes into sight.
  if (supported() && buttons.length && "IntersectionObserver" in window) {
    const watch = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watch.disconnect();
      if (!viewer.panels) viewer.open(entries[0].target.dataset.section, entries[0].target);
    }, { rootMargin: "120px" });
    watch.observe(buttons[0].closest(".viewer"));
  }
})();
