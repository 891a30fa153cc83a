/* A live picture: Plotly.react into the same node with a constant uirevision, so zoom and hover outlive updates. */
(() => {
  const P = window.Playground;
  const { make } = P;

  P.kinds.plot = (element, { props, server, watch }) => {
    const dark = props.dark;
    let shown = null; // the value on screen
    let drawn = ""; // its figure and theme, to skip equal ones
    let drawing = Promise.resolve();

    const title = make("h3");
    const explains = make("p", { class: "explains" });
    const canvas = make("div", { class: "canvas", role: "img" });
    const box = make("div", { class: "canvas-box" }, canvas);
    const empty = make("p", { class: "empty" });
    const narration = make("p", { class: "narration", "aria-live": "polite", hidden: true });
    const menu = make(
      "div",
      { class: "menu", role: "menu", hidden: true },
      ...["PNG", "SVG", "CSV"].map((kind) =>
        make("button", { type: "button", role: "menuitem", text: kind, onclick: () => (toggleMenu(false), save(kind)) }),
      ),
    );
    const expandButton = make("button", { type: "button", text: P.say("play.expand"), "aria-pressed": "false", onclick: () => expand() });
    const saveButton = make("button", { type: "button", text: P.say("play.save"), "aria-haspopup": "menu", "aria-expanded": "false", onclick: () => toggleMenu() });
    const readButton = make("button", { type: "button", text: P.say("play.read"), "aria-expanded": "false", onclick: () => read() });
    const tools = make("div", { class: "tools" }, expandButton, saveButton, readButton, menu);
    const panel = make("section", { class: "card picture" }, make("header", {}, title, tools), explains, box, empty, narration);
    element.replaceChildren(panel);

    const block = element.closest(".block") ?? element;

    function figure(light) {
      const text = P.isDark() && !light ? shown.figure.replace(/#[0-9a-fA-F]{6}\b/g, (hex) => dark[hex.toLowerCase()] ?? hex) : shown.figure;
      const { data, layout } = JSON.parse(text);
      layout.uirevision = shown.run;
      layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
      layout.autosize = true;
      if (panel.classList.contains("expanded")) delete layout.height;
      return { data, layout };
    }

    function draw() {
      block.classList.toggle("irrelevant", !shown.relevant);
      block.style.order = shown.order;
      const named = P.translated(`pictures.${shown.id}.title`, shown.title);
      const explained = P.translated(`pictures.${shown.id}.explains`, shown.explains);
      title.textContent = named;
      explains.textContent = explained;
      panel.setAttribute("aria-label", named);
      panel.dataset.picture = shown.id;
      empty.textContent = P.translated(`pictures.${shown.id}.empty`, shown.empty);
      empty.hidden = Boolean(shown.figure);
      box.hidden = !shown.figure;
      canvas.setAttribute("aria-label", shown.narration || `${named}. ${explained}`);
      if (!narration.hidden && shown.narration) narration.textContent = shown.narration;
      if (!shown.relevant || !shown.figure) return;
      const key = shown.run + P.isDark() + panel.classList.contains("expanded") + shown.figure;
      if (key === drawn) return;
      drawn = key;
      const { data, layout } = figure();
      canvas.style.minWidth = shown.min_width ? `${shown.min_width}px` : "";
      canvas.style.height = layout.height ? `${layout.height}px` : "";
      drawing = P.loadPlotly(props.plotly).then((Plotly) => Plotly.react(canvas, data, layout, { responsive: false, displayModeBar: false, scrollZoom: false, doubleClick: "reset" }));
      drawing.then(() => (canvas.dataset.updates = Number(canvas.dataset.updates ?? 0) + 1));
    }

    function expand(open = !panel.classList.contains("expanded")) {
      panel.classList.toggle("expanded", open);
      document.body.classList.toggle("picture-expanded", open);
      expandButton.textContent = P.say(open ? "play.close" : "play.expand");
      expandButton.setAttribute("aria-pressed", String(open));
      drawn = "";
      draw();
      expandButton.focus();
    }

    function toggleMenu(open = menu.hidden) {
      menu.hidden = !open;
      saveButton.setAttribute("aria-expanded", String(open));
      if (open) menu.firstElementChild.focus();
    }

    async function save(kind) {
      const name = `${shown.id}-${shown.run}`.replace(/[^\w-]+/g, "_");
      if (kind === "CSV") {
        const rows = await server.table({ picture: shown.id, run: shown.run, step: shown.step });
        const cell = (value) => (/[",\n\r]/.test(String(value ?? "")) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? ""));
        P.download(`${name}.csv`, new Blob([rows.map((row) => row.map(cell).join(",")).join("\r\n")], { type: "text/csv" }));
        return;
      }
      if (!shown.figure) return;
      const Plotly = await P.loadPlotly(props.plotly);
      const { data, layout } = figure();
      layout.paper_bgcolor = getComputedStyle(panel).backgroundColor;
      const size = { width: Math.max(canvas.clientWidth, 480), height: Math.max(canvas.clientHeight, 240) };
      await Plotly.downloadImage({ data, layout: { ...layout, ...size } }, { format: kind.toLowerCase(), filename: name, scale: kind === "PNG" ? 2 : 1, ...size });
    }

    async function read(open = narration.hidden) {
      readButton.setAttribute("aria-expanded", String(open));
      narration.hidden = !open;
      narration.textContent = open ? shown.narration || "…" : "";
      if (open) {
        const text = await server.narrate({ picture: shown.id, run: shown.run, step: shown.step });
        if (!narration.hidden) narration.textContent = text;
      }
    }

    panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      if (!menu.hidden) toggleMenu(false), saveButton.focus();
      else if (panel.classList.contains("expanded")) expand(false);
    });
    document.addEventListener("click", (event) => {
      if (!tools.contains(event.target)) toggleMenu(false);
    });

    function update() {
      const value = P.parse(props.value, null);
      if (!value) return;
      shown = value;
      draw();
    }
    watch("value", update);
    P.onTheme(() => shown && draw());
    new ResizeObserver(() => {
      if (!panel.classList.contains("expanded")) block.style.gridRowEnd = `span ${Math.ceil((panel.offsetHeight + 10) / 2)}`;
    }).observe(panel);
    new ResizeObserver(() => canvas.data && window.Plotly?.Plots.resize(canvas)).observe(box);
    new IntersectionObserver(([entry]) => P.see(props.picture, entry.isIntersecting, server.see), { rootMargin: "80px" }).observe(panel);
    update();
  };
})();
