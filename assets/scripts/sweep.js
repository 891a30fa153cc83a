/* The Sweep page: a form that says what to sweep, and a board with the sweep's progress, its numbers and earlier ones. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const say = (name, args) => P.say(`sweep.${name}`, args);
  const MOST_TOLD = 32; // characters of a setting in the line that sums them up

  /* The form. What stands in it is this page's alone; the server gets all of it with Start. */
  P.kinds["sweep-form"] = (element, { props, trigger, watch, server }) => {
    let options = { categories: [], methods: [], first: [], limits: { methods: 12, bytes: 1e6 } };
    let source = "shipped";
    let upload = null; // {name, content} of the chosen file
    let methods = null; // [{id, params}], the baseline first
    let found = { count: 0 };
    let asking = 0;

    const category = make("select", { "aria-label": say("category"), onchange: () => look() });
    const pasted = make("textarea", { rows: 5, "aria-label": say("pasted"), placeholder: say("paste-here"), oninput: () => later() });
    const file = make("input", { type: "file", accept: ".jsonl,.ndjson,.csv", "aria-label": say("file"), onchange: () => read(file.files[0]) });
    const tabs = make("div", { class: "sources", role: "radiogroup", "aria-label": say("prompts") });
    const inputs = {
      shipped: make("div", {}, category),
      pasted: make("div", {}, pasted),
      uploaded: make("div", {}, file, make("p", { class: "explains", text: say("file-why") })),
    };
    const told = make("p", { class: "told", role: "status", "aria-live": "polite" });
    const list = make("ol", { class: "contenders" });
    const add = make("button", { type: "button", class: "quiet", text: `+ ${say("add")}`, onclick: () => (methods.push({ id: unused(), params: {} }), paint(), list.lastChild.querySelector("select").focus()) });
    const seeds = make("input", { type: "text", id: "sweep-seeds", value: "0", autocomplete: "off", title: say("seeds-why"), oninput: () => sum() });
    const tokens = make("input", { type: "text", inputmode: "numeric", id: "sweep-tokens", value: "64", autocomplete: "off" });
    const raw = make("input", { type: "checkbox", id: "sweep-raw" });
    const start = make("button", { type: "button", class: "quiet strong", id: "sweep-start", text: say("start"), onclick: () => begin() });
    const total = make("span", { class: "explains total" });

    for (const name of Object.keys(inputs)) {
      const radio = make("input", { type: "radio", name: "sweep-source", value: name, checked: name === source, onchange: () => ((source = name), show(), look()) });
      tabs.append(make("label", {}, radio, document.createTextNode(say(name))));
    }
    element.replaceChildren(make("section", { class: "card sweep-form" },
      make("h2", { text: say("heading") }), make("p", { class: "explains", text: say("explains") }),
      make("div", { class: "sweep-columns" },
        make("div", {}, make("h3", { text: say("prompts") }), tabs, ...Object.values(inputs), told),
        make("div", {}, make("h3", { text: say("methods") }), make("p", { class: "explains", text: say("methods-why") }), list, add)),
      make("div", { class: "sweep-row" },
        make("label", { for: "sweep-seeds", text: say("seeds") }), seeds,
        make("label", { for: "sweep-tokens", text: say("tokens") }), tokens,
        make("span", { class: "check" }, raw, make("label", { for: "sweep-raw", text: say("raw") })),
        make("span", { class: "grow" }), total, start)));

    function show() {
      for (const [name, box] of Object.entries(inputs)) box.hidden = name !== source;
    }

    const chosen = () => ({ source, category: category.value, text: source === "pasted" ? pasted.value : "", ...(source === "uploaded" ? upload ?? {} : {}) });
    const unused = () => (options.methods.find((one) => !one.blocked && !methods.some((other) => other.id === one.id)) ?? options.methods[0])?.id;

    let typing = null;
    function later() {
      clearTimeout(typing);
      typing = setTimeout(look, 300);
    }

    function read(picked) {
      upload = null;
      if (!picked) return look();
      if (picked.size > options.limits.bytes) return tell({ problem: say("too-large") });
      const reader = new FileReader();
      reader.onload = () => {
        upload = { name: picked.name, content: String(reader.result).split(",")[1] ?? "" };
        look();
      };
      reader.readAsDataURL(picked);
    }

    async function look() {
      const mine = ++asking;
      const what = chosen();
      if (source === "pasted" && !pasted.value.trim()) return tell({ count: 0 });
      if (source === "uploaded" && !upload) return tell({ count: 0 });
      const answer = await server.check(what).catch(() => ({ problem: P.say("shell.no-connection") }));
      if (mine === asking) tell(answer);
    }

    function tell(answer) {
      found = answer.problem ? { count: 0 } : answer;
      told.classList.toggle("problem", Boolean(answer.problem));
      const count = answer.count === 1 ? say("count-one") : answer.categories > 1 ? say("count-kinds", { n: answer.count, kinds: answer.categories }) : say("count", { n: answer.count });
      told.replaceChildren(...(answer.problem ? [document.createTextNode(answer.problem)] : answer.count ? [make("b", { text: count }), ...(answer.first ?? []).map((one) => make("span", { class: "sample", text: `“${one}”` }))] : []));
      sum();
    }

    function sum() {
      const starts = new Set(seeds.value.split(/[\s,]+/).filter(Boolean)).size;
      const runs = found.count * starts * (methods?.length ?? 0);
      total.textContent = runs ? say("runs", { n: runs.toLocaleString(P.language) }) : "";
      start.disabled = !runs;
    }

    /* Methods */

    const chosenOf = (setting, contender) => contender.params[setting.name] ?? setting.default;
    function keep(setting, contender, entry) {
      String(entry ?? "") === String(setting.default ?? "") ? delete contender.params[setting.name] : (contender.params[setting.name] = entry === "" ? null : entry);
      contender.summary.textContent = summary(contender);
    }

    function field(setting, contender) {
      const id = `sweep-${contender.key}-${setting.name}`;
      const value = chosenOf(setting, contender);
      const put = (entry) => keep(setting, contender, entry);
      let input;
      if (setting.kind === "bool") {
        input = make("input", { type: "checkbox", id, onchange: () => put(input.checked) });
        input.checked = Boolean(value);
      } else if (setting.choices?.length) {
        input = make("select", { id, onchange: () => put(input.value) }, ...setting.choices.map((choice) => make("option", { value: choice, text: choice })));
        input.value = value ?? "";
      } else if (setting.editor) {
        // A text of several lines; an empty one must not pass for the method's own.
        input = make("textarea", { id, class: "code", rows: 5, wrap: "off", spellcheck: "false", autocapitalize: "off", dir: "ltr", oninput: () => put(input.value || "\n") });
        input.value = value ?? "";
        return make("div", { class: "sweep-field lines", title: setting.help }, make("label", { for: id, text: setting.label }), input);
      } else {
        input = make("input", { type: "text", id, autocomplete: "off", oninput: () => put(input.value.trim()) });
        input.value = value ?? "";
      }
      return make("div", { class: "sweep-field", title: setting.help }, make("label", { for: id, text: setting.label }), input);
    }

    /* The grammar and its kind have the editor of the Play page. */
    function editor(settings, contender) {
      const named = (name) => settings.find((one) => one.name === name);
      return P.constraint({ settings, prefix: `sweep-${contender.key}`, get: (name) => chosenOf(named(name), contender), set: (name, entry) => keep(named(name), contender, entry), server, page: null });
    }

    const brief = (value) => {
      const line = String(value).trim().replace(/\s+/g, " ");
      return line.length > MOST_TOLD ? `${line.slice(0, MOST_TOLD - 1)}…` : line;
    };

    function summary(contender) {
      const all = Object.entries(contender.params);
      return all.length ? all.map(([name, value]) => `${name}=${brief(value)}`).join(", ") : say("settings");
    }

    function fields(known, contender) {
      const apart = known.settings.filter((setting) => setting.section === "constraint");
      const others = known.settings.filter((setting) => !apart.includes(setting)).map((setting) => field(setting, contender));
      return make("div", { class: "sweep-fields" }, ...others, ...(apart.length ? [editor(apart, contender)] : []));
    }

    function paint() {
      const families = new Map();
      for (const one of options.methods) {
        const family = P.say(one.family).split(":")[0];
        families.set(family, [...(families.get(family) ?? []), one]);
      }
      list.replaceChildren(...methods.map((contender, place) => {
        contender.key = place;
        const pick = make("select", { "aria-label": say("method", { n: place + 1 }), onchange: () => ((methods[place] = { id: pick.value, params: {} }), paint(), list.children[place].querySelector("select").focus()) },
          ...[...families].map(([family, all]) => make("optgroup", { label: family }, ...all.map((one) => make("option", { value: one.id, text: one.blocked ? `${one.title} (${P.say(one.blocked)})` : one.title, disabled: Boolean(one.blocked) && one.id !== contender.id })))));
        pick.value = contender.id;
        const known = options.methods.find((one) => one.id === contender.id);
        contender.summary = make("summary", { text: summary(contender) });
        const more = known?.settings.length ? make("details", { open: contender.open, ontoggle: (event) => (contender.open = event.target.open) }, contender.summary, fields(known, contender)) : null;
        const drop = methods.length > 1 ? make("button", { type: "button", class: "icon drop", text: "✕", "aria-label": say("drop", { n: place + 1 }), title: say("drop", { n: place + 1 }), onclick: () => (methods.splice(place, 1), paint(), add.focus()) }) : null;
        const blocked = known?.blocked ? make("p", { class: "told problem", text: `${known.title} ${P.say(known.blocked)}` }) : null;
        return make("li", {}, make("div", { class: "contender" }, make("span", { class: "place", text: place + 1 }), pick, place === 0 ? make("span", { class: "tag", text: say("baseline") }) : null, make("span", { class: "grow" }), drop), more, blocked);
      }));
      add.disabled = methods.length >= options.limits.methods;
      sum();
    }

    function begin() {
      start.disabled = true;
      setTimeout(sum, 1500); // a second click would only be told that the first is at work
      trigger("begin", { ...chosen(), methods: methods.map(({ id, params }) => ({ method: id, params })), seeds: seeds.value, max_new_tokens: tokens.value.trim(), raw: raw.checked });
    }

    function update() {
      const value = P.parse(props.value, null);
      if (!value) return;
      options = value;
      methods ??= value.first.map((id) => ({ id, params: {} }));
      const kept = category.value;
      category.replaceChildren(make("option", { value: "", text: say("all-categories") }), ...value.categories.map((one) => make("option", { value: one, text: one })));
      category.value = kept;
      show();
      paint();
      if (!value.keep) look();
    }
    watch("value", update);
    update();
  };

  /* The board */
  P.kinds["sweep-board"] = (element, { props, trigger, watch, server }) => {
    let value = { earlier: [], sweep: null, said: "", tick: null };
    let ticket = 0;
    let removing = null;
    const said = make("div", { class: "message", role: "status", "aria-live": "polite", hidden: true });
    const bar = make("progress", { max: 1, value: 0 });
    const where = make("p", { class: "where", "aria-live": "off" });
    const head = make("header", { class: "board-head" });
    const tools = make("div", { class: "board-tools" });
    const results = make("div", { class: "board-results" });
    const card = make("section", { class: "card board", hidden: true }, head, bar, where, tools, results);
    const earlier = make("ul", { class: "earlier" });
    const others = make("section", { class: "card" }, make("h2", { text: say("earlier") }), make("p", { class: "explains", text: say("earlier-why") }), earlier);
    element.replaceChildren(make("div", { class: "session-cards" }, said, card, others));

    const send = (what, extra = {}) => trigger(what, { ticket: `${P.page}${(ticket += 1)}`, ...extra });
    const date = (created) => new Date(created).toLocaleString(P.language, { dateStyle: "medium", timeStyle: "short" });

    function duration(seconds) {
      if (seconds < 90) return say("left-seconds", { n: Math.max(1, seconds) });
      if (seconds < 5400) return say("left-minutes", { n: Math.round(seconds / 60) });
      return say("left-hours", { n: (seconds / 3600).toFixed(1) });
    }

    function state(one, live) {
      if (live) return "live";
      if (one.at_work) return "elsewhere";
      return one.done + one.failed >= one.total ? "done" : "paused";
    }

    const button = (name, act, extra = {}) => make("button", { type: "button", class: `quiet ${extra.class ?? ""}`, id: extra.id, text: say(name), onclick: act });

    async function save(kind) {
      const file = await server.export({ sweep: value.sweep.id, format: kind });
      if (file.problem) return tell(file.problem, "problem");
      P.download(file.name, new Blob([file.content], { type: kind === "json" ? "application/json" : "text/csv" }));
    }

    function tell(text, tone = "calm") {
      said.hidden = !text;
      said.className = `message ${tone}`;
      said.replaceChildren(make("p", { text: P.say(text) }));
    }

    function paintTick() {
      const one = value.sweep;
      const tick = value.tick ?? one;
      bar.max = tick.total || 1;
      bar.value = tick.done + tick.failed;
      bar.setAttribute("aria-label", say("progress", { done: tick.done + tick.failed, total: tick.total }));
      const parts = [say("progress", { done: tick.done + tick.failed, total: tick.total })];
      if (tick.failed) parts.push(say("failed", { n: tick.failed }));
      if (one.live && tick.left !== null && tick.left !== undefined) parts.push(duration(tick.left));
      where.replaceChildren(make("b", { text: parts.join(" · ") }), ...(one.live && tick.doing ? [make("span", { text: tick.tokens ? say("writing", { doing: tick.doing, n: tick.tokens }) : tick.doing })] : []));
    }

    function paintHead() {
      const one = value.sweep;
      const now = state(one, one.live);
      head.replaceChildren(make("h2", { text: one.prompts }), make("span", { class: `tag state-${now}`, text: say(`state-${now}`) }), make("span", { class: "explains", text: say("facts", { model: one.model, precision: one.precision, tokens: one.tokens, seeds: one.seeds.join(", ") }) }));
      const inside = tools.contains(document.activeElement);
      tools.replaceChildren(...[
        now === "live" ? button("pause", () => send("pause"), { class: "strong", id: "sweep-pause" }) : null,
        now === "paused" ? button("resume", () => send("go", { sweep: one.id }), { class: "strong", id: "sweep-resume" }) : null,
        now !== "live" && now !== "elsewhere" && one.failed ? button("again", () => send("go", { sweep: one.id, again: true })) : null,
        one.done ? make("button", { type: "button", class: "quiet", text: say("export-as", { kind: "CSV" }), onclick: () => save("csv") }) : null,
        one.done ? make("button", { type: "button", class: "quiet", text: say("export-as", { kind: "JSON" }), onclick: () => save("json") }) : null,
      ].filter(Boolean));
      if (inside) tools.querySelector("button")?.focus();
    }

    function table(lines, withCategory) {
      const columns = ["runs", "median", "mean", "per-pass", "acceptance", "speed-up", "quartiles", "same"];
      const cells = (line) => [
        line.failed ? `${line.done} · ${say("failed", { n: line.failed })}` : line.done, line.median, line.mean, line.per_pass, line.acceptance, line.speed_up, line.quartiles,
        line.compared ? `${line.same === line.compared ? "✓" : "✕"} ${say("same", { n: line.same, all: line.compared })}` : "–",
      ];
      let last = null;
      const rows = lines.map((line) => {
        const begins = line.category !== last;
        last = line.category;
        const row = make("tr", { class: withCategory && begins ? "begins" : "" }, make("th", { scope: "row" }, withCategory && begins ? make("small", { class: "kind", text: line.category || "–" }) : null, document.createTextNode(line.label)), ...cells(line).map((text) => make("td", { class: "num", text })));
        const [speed, same] = [row.children[6], row.children[8]];
        if (line.speed_up !== "–") speed.classList.add(line.slower ? "slower" : "faster");
        if (line.compared && line.same < line.compared) same.classList.add("slower");
        return row;
      });
      return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": say(withCategory ? "by-category" : "results") }, make("table", { class: "sweep-table" }, make("thead", {}, make("tr", {}, make("th", { scope: "col", text: say("col-method") }), ...columns.map((name) => make("th", { scope: "col", class: "num", text: say(`col-${name}`) })))), make("tbody", {}, ...rows)));
    }

    function cell(run, row, method) {
      if (!run) return make("td", { class: "num none" }, make("span", { title: say("not-yet"), text: "·" }));
      if (run.error) return make("td", { class: "num bad", title: say("no-result", { why: run.error }) }, make("span", { text: "✕" }), make("small", { class: "why", text: run.error }));
      const name = say("open-run", { method, prompt: row.prompt, speed: run.speed });
      return make("td", { class: "num" }, make("a", { href: `?run=${encodeURIComponent(run.run)}`, text: run.speed, title: name, "aria-label": name, onclick: (event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey) return;
        event.preventDefault();
        send("show", { run: run.run });
        P.address(run.run);
        P.state.go("play");
      } }));
    }

    const folds = { category: false, runs: false };
    function fold(name, title, why, body) {
      const box = make("details", { class: "folded", open: folds[name], ontoggle: () => (folds[name] = box.open) }, make("summary", {}, make("h3", { text: title }), make("span", { class: "explains", text: why })), body);
      return box;
    }

    function paintResults() {
      const one = value.sweep;
      const scrolled = results.querySelector(".matrix-scroll")?.scrollTop ?? 0;
      if (!one.done && !one.failed) return results.replaceChildren(make("p", { class: "empty-runs", text: say("results-empty") }));
      const matrix = make("div", { class: "scroll matrix-scroll", tabindex: "0", role: "region", "aria-label": say("every-run") }, make("table", { class: "sweep-table matrix" },
        make("thead", {}, make("tr", {}, make("th", { scope: "col", text: say("prompt") }), one.seeds.length > 1 ? make("th", { scope: "col", class: "num", text: say("seed") }) : null, ...one.methods.map((method) => make("th", { scope: "col", class: "num", text: method })))),
        make("tbody", {}, ...one.cells.map((row) => make("tr", {}, make("th", { scope: "row", title: row.title }, document.createTextNode(row.prompt), make("small", { class: "sample", text: row.title })), one.seeds.length > 1 ? make("td", { class: "num", text: row.seed }) : null, ...row.runs.map((run, index) => cell(run, row, one.methods[index])))))));
      results.replaceChildren(...[
        table(one.lines, false),
        make("p", { class: "explains", text: say("note") }),
        one.categories.length ? fold("category", say("by-category"), "", table(one.categories, true)) : null,
        fold("runs", say("every-run"), say("every-run-why"), make("div", {}, matrix, one.cut > 0 ? make("p", { class: "explains", text: say("cut", { n: one.cut }) }) : null)),
      ].filter(Boolean));
      const now = results.querySelector(".matrix-scroll");
      if (now) now.scrollTop = scrolled;
    }

    function paintEarlier() {
      if (!value.earlier.length) return earlier.replaceChildren(make("li", { class: "empty-runs", text: say("earlier-empty") }));
      earlier.replaceChildren(...value.earlier.map((one) => {
        const now = state(one, value.sweep?.id === one.id && value.sweep.live);
        const current = value.sweep?.id === one.id;
        const remove = now === "live" || now === "elsewhere" ? null : make("button", { type: "button", class: `quiet ${removing === one.id ? "danger" : ""}`, text: removing === one.id ? say("really") : say("remove"), onclick: () => {
          if (removing === one.id) return (removing = null), send("remove", { sweep: one.id });
          removing = one.id;
          paintEarlier();
          [...earlier.querySelectorAll(".danger")].at(0)?.focus();
        } });
        return make("li", { "data-sweep": one.id },
          make("a", { href: "#", class: "session", "aria-current": current ? "true" : null, onclick: (event) => (event.preventDefault(), send("open", { sweep: one.id }), window.scrollTo({ top: card.offsetTop - 60 })) }, make("b", { text: one.prompts }), make("span", { class: "prompt", text: one.methods.join(" · ") })),
          make("span", { class: `tag state-${now}`, text: say(`state-${now}`) }),
          make("small", { text: [date(one.created), say("progress", { done: one.done + one.failed, total: one.total }), one.failed ? say("failed", { n: one.failed }) : null].filter(Boolean).join(" · ") }),
          remove);
      }));
    }

    function update() {
      const next = P.parse(props.value, null);
      if (!next) return;
      if (!next.earlier) {
        // Between two tables only the progress comes.
        if (!value.sweep || !next.tick || value.sweep.id !== next.sweep?.id) return;
        value.tick = next.tick;
        return paintTick();
      }
      value = { ...value, tick: null, said: "", tone: "calm", ...next };
      element.dataset.state = value.sweep ? state(value.sweep, value.sweep.live) : "";
      tell(value.said, value.tone);
      card.hidden = !value.sweep;
      if (value.sweep) paintHead(), paintTick(), paintResults();
      paintEarlier();
    }
    watch("value", update);
    update();

    // Asked for when the page is shown, once the browser knows its owner; a sweep that runs here is left alone.
    const shows = () => document.body.dataset.page === "sweep";
    const ask = () => shows() && !value.sweep?.live && send("ask", { sweep: value.sweep?.id ?? "" });
    new MutationObserver(ask).observe(document.body, { attributes: true, attributeFilter: ["data-page"] });
    for (const wait of [50, 900, 2500]) setTimeout(() => !value.sweep && !value.earlier.length && ask(), wait);
  };
})();
