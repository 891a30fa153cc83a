/* Code beside picture: the method's files, the line of each event of the step that the scrubber shows. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const steps = new WeakMap(); // what the scrubber of each page shows
  document.addEventListener("playground:step", (event) => {
    const page = event.target.closest(".page");
    if (page) steps.set(page, event.detail);
  });

  P.kinds.code = (element, { server }) => {
    const page = element.closest(".page");
    const block = element.closest(".block") ?? element;
    const files = new Map(); // lines of each module, once asked for
    let place = { modules: [], events: [] };
    let module = ""; // the file on screen
    let chosen = null; // the event picked by hand, while the step stays
    let asked = 0;
    let timer = null;

    const summary = make("summary", { text: P.say("learn.code") });
    const explains = make("p", { class: "explains", text: P.say("learn.code-explains") });
    const tabs = make("div", { class: "code-tabs", role: "tablist", "aria-label": P.say("learn.code-files") });
    const chips = make("div", { class: "code-events", role: "group", "aria-label": P.say("learn.code-events") });
    const note = make("p", { class: "code-note", hidden: true });
    const listing = make("ol", { class: "code-lines" });
    const box = make("div", { class: "code-box", tabindex: "0", role: "tabpanel", "aria-label": P.say("learn.code") }, listing);
    const panel = make("details", { class: "card code-panel" }, summary, explains, tabs, chips, note, box);
    element.replaceChildren(panel);

    /* The events of the step, those of one place together: draft · 3 × candidates · commit. */
    function groups() {
      const found = [];
      for (const { kind, module, line } of place.events) {
        const last = found.at(-1);
        if (last && last.kind === kind && last.module === module && last.line === line) last.count++;
        else found.push({ kind, module, line, count: 1 });
      }
      return found;
    }

    async function lines(name) {
      if (!files.has(name)) files.set(name, await server.code({ module: name }));
      return files.get(name);
    }

    async function look(step) {
      if (!panel.open || !step?.run) return;
      const mine = ++asked;
      const found = await server.place({ run: step.run, step: step.live ? null : step.step });
      if (mine !== asked) return;
      if (found.problem) return tell(found.problem);
      place = found;
      chosen = null;
      const current = groups().findLast((one) => one.module);
      await show(current?.module ?? (place.modules.includes(module) ? module : place.modules[0]));
    }

    const tell = (text) => ((note.hidden = !text), (note.textContent = text));

    async function show(name, scroll = true) {
      const all = groups();
      const current = chosen ?? all.findLast((one) => one.module);
      tell(!place.modules.length || (place.events.length && !all.some((one) => one.module)) ? P.say("learn.code-unknown") : place.stale ? P.say("learn.code-stale") : "");
      tabs.replaceChildren(...place.modules.map((one) => make("button", { type: "button", role: "tab", class: "code-tab", "aria-selected": String(one === name), tabindex: one === name ? "0" : "-1", title: one, "data-module": one, text: `${one.split(".").at(-1)}.py`, onclick: () => show(one) })));
      chips.replaceChildren(...all.filter((one) => one.module).map((one) => make("button", { type: "button", class: "chip", "aria-pressed": String(same(one, current)), text: `${one.count > 1 ? `${one.count} × ` : ""}${one.kind.toLowerCase()}`, title: P.say("learn.code-line", { line: one.line }), onclick: () => ((chosen = one), show(one.module)) })));
      if (!name) return listing.replaceChildren();
      const file = await lines(name);
      if (file.problem) return tell(file.problem);
      if (module !== name || listing.childElementCount !== file.lines.length) {
        module = name;
        listing.replaceChildren(...file.lines.map((spans) => make("li", {}, make("code", {}, ...(spans.length ? spans.map(([kind, text]) => make("span", { class: kind ? `c-${kind}` : null, text })) : ["\u200b"])))));
      }
      const here = new Map(all.filter((one) => one.module === name).map((one) => [one.line, one]));
      [...listing.children].forEach((line, index) => {
        const event = here.get(index + 1);
        line.classList.toggle("visited", Boolean(event));
        const now = Boolean(event) && current?.module === name && current.line === index + 1;
        line.classList.toggle("now", now);
        now ? line.setAttribute("aria-current", "true") : line.removeAttribute("aria-current");
      });
      const now = listing.querySelector(".now");
      if (now && scroll) box.scrollTop = now.offsetTop - box.clientHeight / 3;
      else if (!now) box.scrollTop = 0;
    }

    const same = (one, other) => Boolean(other) && one.kind === other.kind && one.module === other.module && one.line === other.line;

    tabs.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const next = way && place.modules[place.modules.indexOf(module) + way];
      if (!way) return;
      event.preventDefault();
      event.stopPropagation();
      if (next) show(next).then(() => tabs.querySelector('[aria-selected="true"]')?.focus());
    });
    panel.addEventListener("toggle", () => look(steps.get(page)));
    page?.addEventListener("playground:step", ({ detail }) => {
      clearTimeout(timer);
      timer = setTimeout(() => look(detail), detail.live ? 400 : 0);
    });
    new ResizeObserver(() => (block.style.gridRowEnd = `span ${Math.ceil((panel.offsetHeight + 10) / 2)}`)).observe(panel);
  };
})();
