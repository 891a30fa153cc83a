/* One's own runs: search, filters, the list, and what can be done with those that are selected.
   The list is what the server answered to the search that stands here; an answer to an older search is dropped. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const say = (name, args) => P.say(`sessions.${name}`, args);
  const MARK = { running: "●", finished: "✓", stopped: "■", failed: "!", interrupted: "↯" };
  const NOTHING = { words: "", method: "", family: "", model: "", status: "", starred: false, since: "", until: "", order: "newest" };
  const DAYS = { today: 0, week: 6, month: 29 };

  /* A file that Gradio serves, saved by the browser. */
  P.fetchFile = (file) => {
    const link = make("a", { href: file.url ?? `gradio_api/file=${file.path}`, download: file.orig_name ?? "decoding-runs.jsonl.gz" });
    document.body.append(link);
    link.click();
    link.remove();
  };

  P.kinds.sessions = (element, { props, trigger, watch }) => {
    const marks = P.parse(props.marks, ["", ""]);
    const chosen = new Set();
    let search = { ...NOTHING };
    let period = "";
    let runs = [];
    let state = { total: 0, more: "", facets: {}, own: null };
    const recorded = P.parse(props.recorded, []);
    let ticket = 0;
    let looks = 0;
    let asked = 0; // ticket of the search that stands here
    let answered = 0;
    let typing = null;
    let confirming = false;
    let first = true; // whether the person's own runs, if any, have not been seen yet
    let focus = null; // id of the run whose link gets the focus back after the list was built anew

    const words = make("input", { type: "search", class: "search", placeholder: say("search"), "aria-label": say("search"), autocomplete: "off", spellcheck: "false", maxlength: 300, oninput: () => {
      clearTimeout(typing);
      typing = setTimeout(() => change({ words: words.value }), 180);
    } });
    words.addEventListener("keydown", (event) => {
      if (event.key === "Enter") clearTimeout(typing), change({ words: words.value });
      if (event.key === "Escape" && words.value) event.preventDefault(), (words.value = ""), clearTimeout(typing), change({ words: "" });
      if (event.key === "ArrowDown") event.preventDefault(), list.querySelector(".session")?.focus();
    });
    const filters = make("div", { class: "filters", role: "group", "aria-label": say("filters") });
    const count = make("p", { class: "count", role: "status", "aria-live": "polite" });
    const list = make("ul", { class: "runs", "aria-label": say("own") });
    const more = make("button", { type: "button", class: "quiet more-runs", hidden: true, text: say("more"), onclick: () => ask({ after: state.more }) });
    const note = make("div", { class: "empty-runs", hidden: true });
    const bar = make("div", { class: "selection", role: "toolbar", "aria-label": say("selection"), hidden: true });
    const shipped = make("ul", { class: "runs", "aria-label": say("recorded") });
    const card = make("section", { class: "card sessions" },
      make("h2", { text: say("own") }), make("p", { class: "explains", text: say("own-why") }),
      words, filters, count, note, list, more, bar);
    const others = make("details", { class: "card folded recorded sessions", open: true }, make("summary", {}, make("h2", { text: say("recorded") }), make("span", { class: "explains", text: say("recorded-why") })), shipped);
    element.replaceChildren(make("div", { class: "session-cards" }, card, others));

    const shows = () => document.body.dataset.page === "sessions";

    function ask(extra = {}) {
      ticket += 1;
      card.setAttribute("aria-busy", "true");
      trigger("ask", { search, ticket: `${P.page}${ticket}`, shown: runs.length, ...extra });
    }

    function change(fields) {
      search = { ...search, ...fields };
      if (!search.words) search.order = "newest";
      runs = [];
      asked = ticket + 1;
      paintFilters();
      ask();
    }

    function act(what, ids, extra = {}) {
      ticket += 1;
      card.setAttribute("aria-busy", "true");
      trigger("alter", { what, ids, search, ticket: `${P.page}${ticket}`, shown: runs.length, ...extra });
    }

    /* Filters */

    function select(name, label, options) {
      const box = make("select", { class: "chip", "aria-label": label, onchange: () => name === "period" ? setPeriod(box.value) : change({ [name]: box.value }) });
      for (const [value, text] of options) box.append(make("option", { value, text, selected: value === (name === "period" ? period : search[name]) }));
      box.classList.toggle("set", Boolean(name === "period" ? period : search[name]));
      return box;
    }

    function setPeriod(value) {
      period = value;
      if (!(value in DAYS)) return change({ since: "", until: "" });
      const day = new Date();
      day.setHours(0, 0, 0, 0);
      day.setDate(day.getDate() - DAYS[value]);
      change({ since: day.toISOString(), until: "" });
    }

    function setDays(first, last) {
      const since = first ? new Date(`${first}T00:00:00`).toISOString() : "";
      let until = "";
      if (last) {
        const day = new Date(`${last}T00:00:00`);
        day.setDate(day.getDate() + 1);
        until = day.toISOString();
      }
      change({ since, until });
    }

    function paintFilters() {
      const held = document.activeElement?.getAttribute("aria-label");
      const inside = filters.contains(document.activeElement);
      const { method = {}, model = {}, family = {}, status = {} } = state.facets;
      const values = (all, named) => Object.entries(all).map(([value, n]) => [value, `${named(value, n)} (${Array.isArray(n) ? n[1] : n})`]);
      const keep = (name, options) => (search[name] && !options.some(([value]) => value === search[name]) ? [...options, [search[name], search[name]]] : options);
      const any = (name) => ["", say(`any-${name}`)];
      const star = make("button", { type: "button", class: `chip star-filter${search.starred ? " set" : ""}`, "aria-pressed": String(search.starred), text: `${search.starred ? "★" : "☆"} ${say("starred")}`, onclick: () => change({ starred: !search.starred }) });
      const days = period === "between"
        ? ["first-day", "last-day"].map((name) => make("input", { type: "date", class: "chip", "aria-label": say(name), "data-day": name, onchange: () => {
            const [first, last] = [...filters.querySelectorAll("input[type=date]")].map((input) => input.value);
            days.since = first, days.until = last;
            setDays(first, last);
          } }))
        : [];
      const some = Object.keys(status).length > 0;
      filters.hidden = !some && same(search, NOTHING);
      filters.replaceChildren(
        ...[
          select("method", say("method"), [any("method"), ...keep("method", values(method, (_, n) => n[0]))]),
          Object.keys(family).length > 1 || search.family ? select("family", say("family"), [any("family"), ...keep("family", values(family, (value) => P.say(`families.${value}`).split(":")[0].replace("families.", "")))]) : null,
          Object.keys(model).length > 1 || search.model ? select("model", say("model"), [any("model"), ...keep("model", values(model, (value) => value))]) : null,
          Object.keys(status).length > 1 || search.status ? select("status", say("status"), [any("status"), ...keep("status", values(status, (value) => say(`status-${value}`)))]) : null,
          select("period", say("period"), [["", say("any-time")], ["today", say("today")], ["week", say("last-week")], ["month", say("last-month")], ["between", say("between")]]),
          ...days,
          star,
          search.words ? select("order", say("order"), [["newest", say("newest")], ["best", say("best")]]) : null,
          same({ ...search, order: "" }, { ...NOTHING, order: "" }) ? null : make("button", { type: "button", class: "quiet", text: say("clear"), onclick: () => ((words.value = ""), (period = ""), change({ ...NOTHING }), words.focus()) }),
        ].filter(Boolean),
      );
      if (inside && held) [...filters.children].find((node) => node.getAttribute("aria-label") === held)?.focus();
    }

    const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

    /* The list */

    function day(created) {
      const at = new Date(created);
      const today = new Date();
      today.setHours(0, 0, 0, 0);
      const days = Math.round((today - new Date(at).setHours(0, 0, 0, 0)) / 86400000);
      if (days === 0) return say("today");
      if (days === 1) return say("yesterday");
      return at.toLocaleDateString(P.language, { weekday: "long", day: "numeric", month: "long", year: at.getFullYear() === today.getFullYear() ? undefined : "numeric" });
    }

    /* Text with the found words marked; they stand between two signs that no text of ours holds. */
    function marked(text) {
      const parts = text.split(marks[0]);
      return parts.flatMap((part, index) => {
        if (index === 0) return [document.createTextNode(part)];
        const [hit, ...rest] = part.split(marks[1]);
        return [make("mark", { text: hit }), document.createTextNode(rest.join(""))];
      });
    }

    function title(run) {
      const open = (event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey) return;
        event.preventDefault();
        if (run.circuit) return P.address(run.id), P.state.go("circuits");
        P.state.go("play");
        trigger("open", { run: run.id, page: P.page });
      };
      const shown = run.name || run.prompt || say("no-prompt");
      return make("a", { href: `?${run.circuit ? "view=circuits&" : ""}run=${encodeURIComponent(run.id)}`, class: "session", onclick: open },
        make("b", { text: run.method }), make("span", { class: run.name ? "prompt named" : "prompt", text: shown, dir: "auto" }));
    }

    function row(run) {
      const picked = make("input", { type: "checkbox", "aria-label": say("select", { run: run.name || run.prompt.slice(0, 60) }), onchange: () => {
        picked.checked ? chosen.add(run.id) : chosen.delete(run.id);
        item.classList.toggle("chosen", picked.checked);
        paintBar();
      } });
      picked.checked = chosen.has(run.id);
      const star = make("button", { type: "button", class: "icon star", "aria-pressed": String(run.starred), "aria-label": say("star"), title: say(run.starred ? "unstar" : "star"), text: run.starred ? "★" : "☆", onclick: () => {
        run.starred = !run.starred;
        star.textContent = run.starred ? "★" : "☆";
        star.setAttribute("aria-pressed", String(run.starred));
        act("star", [run.id], { starred: run.starred });
      } });
      const head = make("div", { class: "head" }, title(run));
      const facts = make("p", { class: "facts" },
        make("span", { class: `status ${run.status}`, title: run.error || null, text: `${MARK[run.status] ?? ""} ${say(`status-${run.status}`)}` }),
        make("time", { datetime: run.created, text: new Date(run.created).toLocaleTimeString(P.language, { hour: "2-digit", minute: "2-digit" }) }),
        ...run.figures.map((figure) => make("span", { text: P.say(figure) })),
        run.category ? make("span", { class: "tag", text: run.category }) : null,
        run.imported ? make("span", { class: "tag warn", title: say("imported-why"), text: `⇣ ${say("imported-tag")}` }) : null,
      );
      const below = run.found
        ? make("p", { class: "output", dir: "auto" }, ...marked(run.found))
        : run.name ? make("p", { class: "output", text: run.prompt, dir: "auto" }) : run.output ? make("p", { class: "output", text: run.output, dir: "auto" }) : null;
      const tool = (name, onclick, why) => make("button", { type: "button", class: "quiet", title: why ?? null, text: say(name), onclick });
      const tools = make("div", { class: "row-tools" },
        tool("name", () => rename(run, head)),
        tool("again", () => show("rerun", [run.id]), say("again-why")),
        run.branches ? tool("branches", () => show("family", [run.id]), say("branches-why")) : null,
      );
      const item = make("li", { "data-run": run.id, class: chosen.has(run.id) ? "chosen" : "" }, picked, star, make("div", { class: "what" }, head, below, facts), tools);
      return item;
    }

    function rename(run, head) {
      const input = make("input", { type: "text", class: "rename", maxlength: 120, "aria-label": say("name-of"), placeholder: say("name-of") });
      input.value = run.name;
      let done = false;
      const end = (keep) => {
        if (done) return;
        done = true;
        const name = input.value.trim();
        if (keep && name !== run.name) (run.name = name), (focus = run.id), act("rename", [run.id], { name });
        const link = title(run);
        head.replaceChildren(link);
        if (keep !== null) link.focus();
      };
      input.addEventListener("keydown", (event) => {
        if (event.key === "Enter") end(true);
        if (event.key === "Escape") event.stopPropagation(), end(false);
      });
      input.addEventListener("blur", () => end(true));
      head.replaceChildren(input);
      input.focus();
      input.select();
    }

    function show(what, ids) {
      P.state.panel?.(what);
      looks += 1;
      trigger("show", { what, ids, ticket: `${P.page}${looks}` });
    }

    card.addEventListener("keydown", (event) => {
      if (!event.target.matches?.(".session") || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
      event.preventDefault();
      const links = [...list.querySelectorAll(".session")];
      const next = links.indexOf(event.target) + (event.key === "ArrowDown" ? 1 : -1);
      next < 0 ? words.focus() : links[next]?.focus();
    });

    function paintList() {
      const items = [];
      let last = "";
      for (const run of runs) {
        const heading = search.order === "newest" ? day(run.created) : "";
        if (heading && heading !== last) items.push(make("li", { class: "day", role: "presentation" }, make("h3", { text: heading })));
        last = heading;
        items.push(row(run));
      }
      list.replaceChildren(...items);
      list.hidden = !runs.length;
      more.hidden = !state.more;
      const asks = !same(search, NOTHING);
      count.textContent = state.own ? (asks ? say(state.total === 1 ? "found-one" : "found", { n: state.total.toLocaleString(P.language) }) : say(state.total === 1 ? "count-one" : "count", { n: state.total.toLocaleString(P.language) })) : "";
      if (state.said) count.append(make("b", { text: ` ${P.say(state.said)}` }));
      note.hidden = runs.length > 0 || state.own === null;
      if (!note.hidden) {
        note.replaceChildren(...(state.problem ? [make("p", { text: state.problem })] : asks && state.own ? [make("p", { text: say("nothing-found") })]
          : [make("p", { text: say("nothing-yet") }), make("button", { type: "button", class: "quiet", text: say("go-play"), onclick: () => P.state.go("play") })]));
      }
      if (focus) list.querySelector(`[data-run="${CSS.escape(focus)}"] .session`)?.focus(), (focus = null);
      paintBar();
    }

    /* What can be done with the selected ones. Deleting asks once more, in place. */

    function paintBar() {
      const n = chosen.size;
      if (!n) confirming = false;
      bar.hidden = !n;
      card.classList.toggle("selecting", n > 0);
      if (!n) return bar.replaceChildren();
      const button = (name, onclick, extra = {}) => make("button", { type: "button", class: "quiet", text: say(name), onclick, ...extra });
      const ids = [...chosen];
      const label = make("span", { class: "chosen-count", role: "status", text: say(n === 1 ? "chosen-one" : "chosen", { n }) });
      if (confirming) {
        const keep = button("keep", () => ((confirming = false), paintBar(), bar.querySelector("[data-delete]")?.focus()));
        bar.replaceChildren(make("span", { class: "chosen-count", role: "alert", text: say(n === 1 ? "delete-one-sure" : "delete-sure", { n }) }),
          button("delete-yes", () => (act("delete", ids), chosen.clear(), (confirming = false), paintBar(), words.focus()), { class: "quiet danger" }), keep);
        keep.focus();
        return;
      }
      bar.replaceChildren(label,
        button("beside", () => show("diff", ids), { disabled: n !== 2, title: n === 2 ? null : say("beside-why") }),
        button("star", () => act("star", ids, { starred: true })),
        button("export", () => trigger("export", { ids })),
        button("delete", () => ((confirming = true), paintBar()), { "data-delete": "" }),
        button("select-none", () => (chosen.clear(), paintList(), words.focus())));
    }
    bar.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && confirming) event.stopPropagation(), (confirming = false), paintBar(), bar.querySelector("[data-delete]")?.focus();
    });

    function update() {
      const value = P.parse(props.value, {});
      if (!value.ticket) return;
      if (value.ticket.startsWith(P.page)) {
        const number = Number(value.ticket.slice(P.page.length));
        if (number < Math.max(answered, asked)) return; // an answer to an older search
        answered = number;
        if (number === ticket) card.removeAttribute("aria-busy");
      } else if (!same(search, NOTHING)) return ask();
      const known = new Set(runs.map((run) => run.id));
      runs = value.append ? [...runs, ...value.runs.filter((run) => !known.has(run.id))] : value.runs;
      state = { total: value.total, more: value.more, facets: value.facets, own: value.own ?? 0, problem: value.problem, said: value.said };
      if (first && state.own) (first = false), (others.open = false);
      const there = new Set(runs.map((run) => run.id));
      for (const id of chosen) if (!there.has(id)) chosen.delete(id);
      if (!list.querySelector(".rename")) paintFilters(), paintList();
      clearTimeout(update.next);
      if (runs.some((run) => run.status === "running")) update.next = setTimeout(() => shows() && !document.hidden && ask(), 3000);
    }

    function paintRecorded() {
      shipped.replaceChildren(...recorded.map((run) => make("li", {}, make("div", { class: "what" }, make("div", { class: "head" }, title({ ...run, name: "" })), make("p", { class: "facts" }, make("span", { text: run.model }))))));
      others.hidden = !recorded.length;
    }

    P.state.exportAll = () => trigger("export", {});
    P.state.refreshSessions = () => shows() && ask();
    /* The list is asked for whenever the page comes into sight: on its tab, after another browser tab, at the start. */
    new MutationObserver(() => shows() && ask()).observe(document.body, { attributes: true, attributeFilter: ["data-page"] });
    document.addEventListener("visibilitychange", () => !document.hidden && shows() && ask());
    watch("value", update);
    paintRecorded();
    paintFilters();
    update();
    if (shows()) ask();
  };

  P.kinds["exchange-note"] = (element) => {
    element.replaceChildren(make("div", { class: "exchange-note" },
      make("button", { type: "button", class: "quiet", text: say("export-all"), onclick: () => P.state.exportAll?.() }),
      make("p", { class: "explains", text: say("import-why") })));
  };
})();
