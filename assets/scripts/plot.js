/* A live picture: Plotly.react into the same node with a constant uirevision, so zoom and hover outlive updates. */
(() => {
  const P = window.Playground;
  const { make } = P;

  P.kinds.plot = (element, { props, server, watch }) => {
    const dark = props.dark;
    let shown = null; // the value on screen
    let drawn = ""; // its figure and theme, to skip equal ones
    let drawing = Promise.resolve();
    let axes = ""; // names of those that are drawn
    let asked = null; // how often another guess was asked for; null while this is no picture of one guess

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
    const picked = make("span", { class: "picked" });
    const [before, after] = [[-1, "‹", "proof.guess-before"], [1, "›", "proof.guess-after"]].map(([way, sign, name]) =>
      make("button", { type: "button", class: "icon", text: sign, "aria-label": P.say(name), title: P.say(name), onclick: () => neighbour(way) }),
    );
    const picker = make("div", { class: "pick", role: "group", "aria-label": P.say("proof.guesses"), hidden: true }, before, picked, after);
    const panel = make("section", { class: "card picture" }, make("header", {}, title, tools), explains, picker, box, empty, narration);
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
      P.glossText(explains, explained);
      panel.setAttribute("aria-label", named);
      panel.dataset.picture = shown.id;
      P.glossText(empty, P.translated(`pictures.${shown.id}.empty`, shown.empty));
      empty.hidden = Boolean(shown.figure);
      box.hidden = !shown.figure;
      canvas.setAttribute("aria-label", shown.narration || `${named}. ${explained}`);
      if (!narration.hidden && shown.narration) narration.textContent = shown.narration;
      drawPicker();
      if (!shown.relevant || !shown.figure) return;
      const key = shown.run + P.isDark() + panel.classList.contains("expanded") + shown.figure;
      if (key === drawn) return;
      drawn = key;
      const { data, layout } = figure();
      canvas.style.minWidth = shown.min_width ? `${shown.min_width}px` : "";
      canvas.style.height = layout.height ? `${layout.height}px` : "";
      canvas.style.setProperty("--tall", canvas.style.height || "0px");
      const subplots = Object.keys(layout).filter((name) => /^[xy]axis/.test(name)).sort().join(" ");
      drawing = P.loadPlotly(props.plotly).then((Plotly) => {
        // `react` draws axes that were not there before at no place at all.
        const anew = canvas.data && subplots !== axes;
        axes = subplots;
        if (anew) delete canvas.dataset.clickable;
        return Plotly[anew ? "newPlot" : "react"](canvas, data, layout, { responsive: false, displayModeBar: false, scrollZoom: false, doubleClick: "reset" });
      });
      drawing.then(() => (canvas.dataset.updates = Number(canvas.dataset.updates ?? 0) + 1));
      drawing.then(local).then(clickable).then(mark);
    }

    /* Plotly points to gradients and clips by the whole address, which stops working when that changes. */
    function local() {
      for (const node of canvas.querySelectorAll("[clip-path*='#']")) node.setAttribute("clip-path", node.getAttribute("clip-path").replace(/\([^#)]*#/, "(#").replace(/['"]\)/, ")"));
      for (const node of canvas.querySelectorAll(".gradient_filled")) node.style.fill = node.style.fill.replace(/\([^#)]*#/, "(#").replace(/['"]\)/, ")");
    }

    /* A click on a point with an id asks the picture of one guess, if it is on the page, to show that guess. */
    function clickable() {
      if (canvas.dataset.clickable) return;
      canvas.dataset.clickable = "true";
      canvas.on("plotly_click", ({ points }) => {
        const id = points.find((point) => point.id)?.id;
        if (!id) return;
        // Guesses are told by numbers, parts of a model by names.
        if (Number.isNaN(Number(id))) canvas.dispatchEvent(new CustomEvent("picked-node", { bubbles: true, detail: { run: shown.run, id } }));
        else for (const show of P.state.pickers ?? []) show({ run: shown.run, step: shown.step, node: Number(id) });
      });
    }

    /* The guess that the picture of one guess shows, framed where it stands among the others. */
    function mark() {
      const points = canvas.data?.find((trace) => trace.ids && trace.meta);
      if (!points || shown.step < 0) return;
      P.state.marks ??= new Set();
      P.state.marks.add(mark);
      const { run, step, node } = P.state.picked ?? {};
      const at = run === shown.run && step === shown.step ? points.ids.indexOf(String(node)) : -1;
      const [wide, high] = points.meta.map((size) => size / 2 + 1);
      const [x, y] = [points.x[at], points.y[at]];
      const line = { color: getComputedStyle(panel).getPropertyValue("--accent").trim(), width: 2.5 };
      const shapes = at < 0 ? [] : [{ type: "rect", x0: x - wide, x1: x + wide, y0: y - high, y1: y + high, line }];
      if (at >= 0 || canvas.layout.shapes?.length) window.Plotly.relayout(canvas, { shapes });
    }

    /* A picture of one guess: which of them it shows, and the way to the next. */
    function drawPicker() {
      const picks = shown.picks;
      if (!picks) return (picker.hidden = !picker.contains(document.activeElement));
      if (asked === null) (asked = 0), openNarration(), (P.state.pickers ??= new Set()).add((what) => pick(what, true));
      P.state.picked = { run: shown.run, step: shown.step, node: picks.node };
      for (const mark of P.state.marks ?? []) mark();
      const place = picks.nodes.indexOf(picks.node);
      picker.hidden = false;
      picked.textContent = P.say("proof.guess-of", { place: place + 1, count: picks.nodes.length });
      before.disabled = !server.pick || shown.step < 0 || place <= 0;
      after.disabled = !server.pick || shown.step < 0 || place >= picks.nodes.length - 1;
    }

    function openNarration() {
      narration.hidden = false;
      narration.textContent = shown.narration;
      readButton.setAttribute("aria-expanded", "true");
    }

    function neighbour(way) {
      const { node, nodes } = shown.picks ?? {};
      const next = nodes?.[nodes.indexOf(node) + way];
      if (next !== undefined) pick({ run: shown.run, step: shown.step, node: next });
    }

    async function pick(what, show = false) {
      const current = () => what.run === shown.run && what.step === shown.step && shown.step >= 0;
      if (!server.pick || !current()) return;
      const mine = ++asked;
      const value = P.parse(await server.pick({ ...what, picture: shown.id, order: shown.order }), null);
      if (!value || mine !== asked || !current()) return;
      shown = value;
      draw();
      if (!show) return;
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
      panel.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
      panel.classList.remove("shown-now");
      requestAnimationFrame(() => panel.classList.add("shown-now"));
    }

    picker.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      neighbour(way);
    });

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
        const rows = await server.table({ picture: shown.id, run: shown.run, step: shown.step, node: shown.picks?.node });
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
        const text = await server.narrate({ picture: shown.id, run: shown.run, step: shown.step, node: shown.picks?.node });
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
    new ResizeObserver(() => {
      if (canvas.data) Promise.resolve(window.Plotly?.Plots.resize(canvas)).then(local, () => {});
      // What scrolls must be reachable without a mouse.
      box.scrollWidth > box.clientWidth ? (box.tabIndex = 0) : box.removeAttribute("tabindex");
    }).observe(box);
    new IntersectionObserver(([entry]) => P.see(props.picture, entry.isIntersecting, server.see), { rootMargin: "80px" }).observe(panel);
    update();
  };
})();
