/* The Circuits page: the form, the question, what stands under the graph, and one component.
   What is marked (sliders, pins, groups) lives here and is told to the server whole; only the answer to the latest
   telling counts. Clicks in the pictures arrive as `picked-node` events; everything can be reached by buttons, too. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const say = (name, args) => P.say(`circuits.${name}`, args);
  const RULES = ["ln", "identity", "half", "ah", "uniform"];
  const PAUSE = 180; // ms after the last movement of a slider
  const TYPING = 350; // ms without a keystroke before prompts are compared
  const GROUP = 40; // characters of a group's name
  const shows = () => document.body.dataset.page === "circuits";
  const plain = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−"));
  const signed = (value, digits = 2) => `${value > 0 ? "+" : ""}${plain(value, digits)}`;
  const token = (one) => make("span", { class: "alt-token" }, ...P.spell(one, true));
  const mark = (pinned) => (pinned ? "⊙ " : "");

  /* A sentence with nodes in the place of some of its arguments. */
  function sentence(name, args) {
    const parts = say(name).split(/(\{\w+\})/);
    return parts.filter(Boolean).map((part) => (/^\{\w+\}$/.test(part) ? args[part.slice(1, -1)] ?? part : document.createTextNode(part)));
  }

  /* Two prompts, token under token; where they differ both are marked. */
  function alignment(clean, corrupted) {
    const length = Math.max(clean.length, corrupted.length);
    const differs = (place) => clean.length && corrupted.length && clean[place]?.id !== corrupted[place]?.id;
    const row = (name, side) => make("tr", {}, make("th", { scope: "row", text: say(name) }), ...Array.from({ length }, (_, place) => {
      const one = side[place];
      return make("td", { class: `${differs(place) ? "differs" : ""}${one ? "" : " none"}` }, ...(one ? P.spell(one, true) : [document.createTextNode("∅")]));
    }));
    const rows = [row("clean", clean), ...(corrupted.length ? [row("corrupted", corrupted)] : [])];
    return make("div", { class: "aligned-tokens", tabindex: "0", role: "region", "aria-label": say("alignment") }, make("table", {},
      make("thead", {}, make("tr", {}, make("td"), ...Array.from({ length }, (_, place) => make("th", { scope: "col", class: differs(place) ? "differs" : "", text: differs(place) ? `≠ ${place}` : place })))),
      make("tbody", {}, ...rows)));
  }

  P.kinds["circuit-form"] = (element, { props, trigger, watch, server }) => {
    let options = { tasks: [], estimators: {}, ready: false, blocked: "", most_pairs: 24 };
    let given = { prefix: [], tokens: [], parent: null }; // output before the token that is asked about
    let typing = null;
    let asking = 0;
    let touched = false;

    const field = (name, input, extra = {}) => make("label", { class: `ask ${extra.class ?? ""}`, title: extra.title ?? null }, make("span", { text: say(name) }), input);
    const task = make("select", { id: "circuit-task", onchange: () => (paint(), compare(0)) });
    const pairs = make("input", { id: "circuit-pairs", type: "number", min: 1, max: 24, value: 8 });
    const estimator = make("select", { id: "circuit-estimator", onchange: () => choose(estimator.value) });
    const boxes = Object.fromEntries(RULES.map((name) => [name, make("input", { type: "checkbox", id: `circuit-rule-${name}`, onchange: () => settle() })]));
    const ruled = make("span", { class: "now" });
    const rules = make("details", { class: "rules" }, make("summary", {}, make("span", { text: say("rules") }), document.createTextNode(" "), ruled), make("div", { class: "rule-list" }, ...RULES.map((name) => make("label", {}, boxes[name], make("span", {}, make("b", { text: name }), document.createTextNode(` ${say(`rule-${name}`)}`))))));
    const start = make("button", { type: "button", class: "quiet strong", id: "circuit-run", text: P.say("play.run"), onclick: () => begin() });
    const stop = make("button", { type: "button", class: "quiet", id: "circuit-stop", text: P.say("play.stop"), onclick: () => trigger("halt", { page: P.page }) });
    const explains = make("p", { class: "explains" });
    const area = (id, name) => make("textarea", { id, rows: 3, maxlength: 8000, spellcheck: "false", "aria-label": say(name), dir: "auto", oninput: () => compare() });
    const prompt = area("circuit-clean", "clean");
    const corrupted = area("circuit-corrupted", "corrupted");
    corrupted.placeholder = say("second-choices");
    const word = (id, name) => make("input", { type: "text", id, maxlength: 80, autocomplete: "off", spellcheck: "false", placeholder: say(`${name}-empty`), oninput: () => compare() });
    const answer = word("circuit-answer", "answer");
    const foil = word("circuit-foil", "foil");
    const raw = make("input", { type: "checkbox", id: "circuit-raw", checked: true, onchange: () => compare(0) });
    const before = make("p", { class: "given-tokens", hidden: true });
    const own = make("div", { class: "own", hidden: true },
      make("div", { class: "sides" }, field("clean", prompt), field("corrupted", corrupted)),
      before,
      make("div", { class: "own-row" }, field("answer", answer, { title: say("answer-why") }), field("foil", foil, { title: say("foil-why") }), make("label", { class: "check" }, raw, make("span", { text: say("raw") }))));
    const aligned = make("div", { class: "alignment" });
    const sample = make("details", { class: "folded sample", open: true }, make("summary", {}, make("span", { class: "explains", text: say("first-pair") })), aligned);
    const problems = make("div", { class: "told", role: "status", "aria-live": "polite" });
    element.replaceChildren(make("section", { class: "card circuit-form", "aria-label": say("form") },
      make("div", { class: "asks" }, field("task", task), field("pairs", pairs, { class: "few", title: say("pairs-why") }), field("estimator", estimator), rules, make("span", { class: "grow" }), start, stop),
      explains, own, sample, problems));

    for (const kind of ["input", "change"]) element.addEventListener(kind, () => (touched = true));

    const isOwn = () => task.value === "this prompt";
    const chosen = () => options.tasks.find((one) => one.id === task.value);

    function choose(id) {
      const switches = options.estimators[id];
      if (switches) for (const name of RULES) boxes[name].checked = Boolean(switches[name]);
      settle();
    }

    /* The name that a set of rules has, if any. */
    function settle() {
      const fits = Object.entries(options.estimators).find(([, switches]) => RULES.every((name) => Boolean(switches[name]) === boxes[name].checked));
      estimator.value = fits ? fits[0] : "";
      const on = RULES.filter((name) => boxes[name].checked);
      ruled.textContent = on.length ? on.join(" + ") : say("no-rule");
    }

    function paint() {
      own.hidden = !isOwn();
      sample.classList.toggle("always", isOwn());
      if (isOwn()) sample.open = true;
      pairs.closest("label").hidden = isOwn();
      pairs.max = Math.min(options.most_pairs, chosen()?.pairs ?? options.most_pairs);
      P.glossText(explains, isOwn() ? say("own-why") : chosen() ? `${P.translated(`circuits.task-${task.value}`, chosen().about)}` : "");
      before.hidden = !isOwn() || !given.prefix.length;
      before.replaceChildren(...sentence("given", { text: make("span", { class: "given-text" }, ...given.tokens.flatMap((one) => P.spell(one, true))), n: document.createTextNode(given.prefix.length) }), make("button", { type: "button", class: "icon", text: "✕", "aria-label": say("drop-given"), title: say("drop-given"), onclick: () => ((given = { prefix: [], tokens: [], parent: null }), paint()) }));
      start.disabled = Boolean(options.blocked);
      start.title = options.blocked ? P.say(options.blocked) : "";
    }

    function compare(wait = TYPING) {
      clearTimeout(typing);
      typing = setTimeout(look, wait);
    }

    async function look() {
      const mine = ++asking;
      const shipped = chosen();
      const what = isOwn() ? { prompt: prompt.value, corrupted: corrupted.value, answer: answer.value, foil: foil.value, raw: raw.checked } : { prompt: shipped?.clean, corrupted: shipped?.corrupted, raw: true };
      if (!shows()) return;
      const told = await server.align(what).catch(() => null);
      if (mine !== asking || !told) return;
      const [clean, other] = told.sides ?? [[], []];
      aligned.replaceChildren(...(clean.length ? [alignment(clean, other)] : []), ...(isOwn() || !shipped ? [] : [make("p", { class: "explains" }, ...sentence("sample", { answer: token({ text: shipped.answer }), foil: token({ text: shipped.foil }) }))]));
      problems.replaceChildren(...(told.problems ?? []).map((one) => make("p", { class: "problem", text: one })), ...(told.waiting ? [make("p", { class: "explains", text: P.say(told.waiting) })] : []));
    }

    const asked = () => ({
      task: task.value, pairs: Number(pairs.value) || 8, rules: Object.fromEntries(RULES.map((name) => [name, boxes[name].checked])),
      ...(isOwn() ? { prompt: prompt.value, corrupted: corrupted.value, answer: answer.value, foil: foil.value, raw: raw.checked, prefix: given.prefix, parent: given.parent } : {}),
    });

    function begin() {
      P.state.circuit?.leave();
      if (!isOwn()) sample.open = false; // the question stands below
      trigger("begin", asked());
    }

    function fill(value) {
      task.value = value.task;
      pairs.value = value.pairs ?? 8;
      prompt.value = value.prompt ?? "";
      corrupted.value = value.corrupted ?? "";
      answer.value = value.answer ?? "";
      foil.value = value.foil ?? "";
      raw.checked = Boolean(value.raw);
      given = { prefix: value.prefix ?? [], tokens: value.given ?? [], parent: value.parent ?? null };
      for (const name of RULES) boxes[name].checked = Boolean(value.rules?.[name]);
      settle();
      sample.open = false;
    }

    function update() {
      const value = P.parse(props.value, null);
      if (!value) return;
      const first = !options.tasks.length;
      const kept = [task.value, estimator.value];
      options = value;
      P.state.circuitExample = value.example;
      task.replaceChildren(...value.tasks.map((one) => make("option", { value: one.id, text: P.translated(`circuits.title-${one.id}`, one.title) })), make("option", { value: "this prompt", text: say("this-prompt") }));
      estimator.replaceChildren(...Object.keys(value.estimators).map((id) => make("option", { value: id, text: say(`by-${id}`) })), make("option", { value: "", text: say("by-own"), hidden: true }));
      if (first) choose("relp");
      else [task.value, estimator.value] = kept;
      // The shipped example comes unasked: it does not overwrite a question that somebody has begun.
      if (value.asked && !(touched && P.state.circuitExampleAwaited)) fill(value.asked);
      if (value.asked) P.state.circuitExampleAwaited = false;
      paint();
      compare(0);
    }
    watch("value", update);
    update();
    new MutationObserver(() => shows() && compare(0)).observe(document.body, { attributes: true, attributeFilter: ["data-page"] });

    /* From a token of any run: the question about it is asked at once. */
    P.state.why = P.embedded ? null : (what) => {
      P.state.circuit?.leave();
      P.state.go("circuits");
      trigger("why", { ...what, rules: asked().rules });
    };
    if (P.state.ask) P.state.ask();
  };

  P.kinds["circuit-about"] = (element, { props, watch }) => {
    const head = make("p", { class: "question" });
    const facts = make("p", { class: "explains", role: "status", "aria-live": "off" });
    const bar = make("progress", { max: 1, value: 0 });
    const pairs = make("ol", { class: "pairs" });
    const notes = make("ul", { class: "notes" });
    const more = make("details", { class: "folded" }, make("summary", {}, make("span", { class: "explains", text: say("all-pairs") })), pairs, notes);
    const card = make("section", { class: "card circuit-about", "aria-label": say("question"), hidden: true }, head, facts, bar, more);
    element.replaceChildren(card);

    function update() {
      const value = P.parse(props.value, null);
      if (!value) return;
      const asked = value.question;
      card.hidden = !asked;
      if (!asked) return;
      const [first] = asked.pairs;
      head.replaceChildren(...sentence("why-answer", { answer: token(first.answer), foil: token(first.foil) }));
      const parts = [asked.corrupted === null ? say("alone", { clean: signed(asked.clean) }) : say(asked.count === 1 ? "difference-one" : "difference", { clean: signed(asked.clean), corrupted: signed(asked.corrupted), n: asked.count })];
      if (value.title) parts.push(value.title + (value.rules.length ? ` (${value.rules.join(" + ")})` : ""));
      if (value.measured !== null && value.rows) parts.push(say("measured-rows", { n: Math.min(value.measured, value.rows), all: value.rows }));
      if (value.ended === "stopped") parts.push(say("stopped"));
      facts.textContent = parts.join(" · ");
      bar.hidden = !value.live || value.measured === null || !value.rows;
      bar.value = value.rows ? value.measured / value.rows : 0;
      bar.setAttribute("aria-label", say("measured-rows", { n: value.measured ?? 0, all: value.rows }));
      if (update.run !== value.run) {
        update.run = value.run;
        pairs.replaceChildren(...asked.pairs.map((pair) => make("li", {}, alignment(pair.clean, pair.corrupted), make("p", { class: "explains" }, ...sentence("pair", { answer: token(pair.answer), foil: token(pair.foil), up: make("b", { text: signed(pair.up) }), down: make("b", { text: signed(pair.down) }) })))));
      }
      notes.replaceChildren(...value.notes.map((one) => make("li", { text: one })));
    }
    watch("value", update);
    update();
  };

  P.kinds["circuit-tools"] = (element, { props, trigger, watch, server }) => {
    const example = () => {
      P.state.circuitExampleAwaited = true;
      trigger("open", { run: P.state.circuitExample });
    };
    let value = null; // what the server said last
    let marks = { pinned: [], groups: {} }; // as they are on screen
    let accepted = structuredClone(marks);
    let run = "";
    let ticket = 0;
    let moving = null;
    let outside = null; // the run in the address before this page was shown
    let awaiting = false; // a run was asked for, so nothing else is to be opened

    const slider = (name) => {
      const output = make("output", { for: `circuit-${name}` });
      const input = make("input", { type: "range", id: `circuit-${name}`, min: name === "nodes" ? 1 : 0, step: 1, oninput: () => {
        fillTrack(input);
        output.textContent = input.value;
        clearTimeout(moving);
        moving = setTimeout(() => tell(true), PAUSE);
      } });
      return { input, output, row: make("div", { class: "slide" }, make("label", { for: input.id, text: say(name) }), input, output) };
    };
    const fillTrack = (input) => input.style.setProperty("--filled", `${(100 * (input.value - input.min)) / Math.max(1, input.max - input.min)}%`);
    const sliders = { nodes: slider("nodes"), edges: slider("edges") };
    const number = (name) => ({ dd: make("dd", { id: `circuit-${name}`, text: "–" }), dt: make("dt", { text: say(`${name}-means`) }) });
    const faithfulness = number("faithfulness");
    const completeness = number("completeness");
    const numbers = make("dl", { class: "numbers trust" }, ...[faithfulness, completeness].map(({ dd, dt }) => make("div", { title: say(`${dd.id.replace("circuit-", "")}-why`) }, dd, dt)));
    const line = make("p", { class: "explains trust-line", role: "status", "aria-live": "polite" });
    const parts = make("div", { class: "parts", role: "group", "aria-label": say("parts"), tabindex: "-1" });
    const groups = make("ul", { class: "groups" });
    const told = make("p", { class: "told", role: "status", "aria-live": "polite" });
    const files = make("div", { class: "files" }, make("span", { class: "explains", text: say("take-along") }), ...["json", "graphml"].map((kind) => make("button", { type: "button", class: "quiet", id: `circuit-save-${kind}`, text: say("save-as", { kind: kind === "json" ? "JSON" : "GraphML" }), onclick: () => save(kind) })));
    const card = make("section", { class: "card circuit-tools", "aria-label": say("tools"), hidden: true },
      make("div", { class: "slides" }, sliders.nodes.row, sliders.edges.row), numbers, line);
    const rest = make("section", { class: "card circuit-parts", "aria-label": say("parts"), hidden: true },
      make("h3", { text: say("parts") }), make("p", { class: "explains", text: say("parts-why") }), parts, groups, told, files);
    element.replaceChildren(card);
    P.state.placeParts = (place) => place.replaceChildren(rest);
    if (P.state.partsPlace) P.state.placeParts(P.state.partsPlace);
    const show = (shown) => ((card.hidden = !shown), (rest.hidden = !shown));

    const recorded = (id) => id.startsWith("recorded-");
    const all = () => ({ run, nodes: Number(sliders.nodes.input.value), edges: Number(sliders.edges.input.value), pinned: marks.pinned, groups: marks.groups });

    function tell(save) {
      if (!run) return;
      clearTimeout(moving);
      line.textContent = say("weighing");
      card.classList.add("busy");
      trigger("adjust", { ...all(), save, ticket: `${P.page}${(ticket += 1)}` });
    }

    async function save(kind) {
      const file = await server.export({ ...all(), format: kind });
      if (file.problem) return void (told.textContent = file.problem);
      P.download(file.name, new Blob([file.content], { type: file.type }));
    }

    const groupOf = (id) => Object.keys(marks.groups).find((name) => marks.groups[name].includes(id)) ?? "";

    function without(id) {
      for (const name of Object.keys(marks.groups)) {
        marks.groups[name] = marks.groups[name].filter((one) => one !== id);
        if (!marks.groups[name].length) delete marks.groups[name];
      }
    }

    /* What the card of a component does to the marks. */
    P.state.circuit = {
      get run() { return run; },
      get marks() { return marks; },
      groupOf,
      leave: () => ((awaiting = true), (run = ""), show(false), P.state.circuitNode?.close()),
      pin(id, on) {
        marks.pinned = on ? [...new Set([...marks.pinned, id])] : marks.pinned.filter((one) => one !== id);
        paintParts();
        tell(true);
      },
      group(id, name) {
        without(id);
        if (name) marks.groups[name] = [...(marks.groups[name] ?? []), id];
        paintParts();
        tell(true);
      },
    };

    function paintParts() {
      const held = parts.contains(document.activeElement) ? document.activeElement.dataset.node : null;
      parts.replaceChildren(...(value?.shown ?? []).map((one) => make("button", { type: "button", class: `quiet part${marks.pinned.includes(one.id) ? " pinned" : ""}`, "data-node": one.id, title: one.label, "aria-pressed": String(P.state.circuitNode?.id === one.id), onclick: () => P.state.circuitNode?.look(one.id, true) },
        make("b", { text: `${mark(marks.pinned.includes(one.id))}${one.id}` }), document.createTextNode(` ${signed(one.score)}`))));
      if (held) parts.querySelector(`[data-node="${CSS.escape(held)}"]`)?.focus();
      groups.replaceChildren(...Object.entries(marks.groups).map(([name, members]) => make("li", {}, make("b", { text: name, dir: "auto" }), make("span", { class: "explains", text: members.join(", ") }), make("button", { type: "button", class: "icon", text: "✕", "aria-label": say("ungroup", { name }), title: say("ungroup", { name }), onclick: () => {
        delete marks.groups[name];
        paintParts();
        tell(true);
      } }))));
      groups.hidden = !groups.children.length;
    }

    function paintTrust() {
      const known = value.faithfulness !== null && value.faithfulness !== undefined;
      card.classList.toggle("busy", ["reading", "weighing"].includes(value.state));
      if (known || value.state === "problem") {
        faithfulness.dd.textContent = plain(value.faithfulness);
        completeness.dd.textContent = plain(value.completeness);
      }
      const shown = say("on-screen", { nodes: value.shown.length, components: value.components, edges: value.drawn, all: value.edge_count.toLocaleString(P.language) });
      const state = known ? say(value.passes ? "weighed" : "weighed-before", { n: value.passes }) : value.state === "reading" ? say("reading") : value.state === "weighing" ? say("weighing") : value.said ? P.say(value.said) : "";
      const loose = value.loose ? say(value.loose === 1 ? "loose-one" : "loose", { n: value.loose }) : "";
      line.textContent = [shown, loose, state].filter(Boolean).join(" ");
    }

    function update() {
      const next = P.parse(props.value, null);
      if (!next) return;
      if (next.refused) {
        if (next.run !== run) return;
        told.textContent = next.refused;
        marks = structuredClone(accepted);
        card.classList.remove("busy");
        paintParts();
        return paintTrust();
      }
      if (next.other) {
        // The run in the address is none of this page's.
        outside = next.other;
        if (run && shows() && !recorded(run)) P.address(run);
        return void (!run && !awaiting && P.state.circuitExample && example());
      }
      if (next.nothing) return (run = next.run), show(false), void P.address(run);
      const fresh = next.run !== run && !next.ticket;
      if (!fresh && (next.run !== run || next.ticket !== `${P.page}${ticket}`)) return;
      value = next;
      run = next.run;
      marks = { pinned: [...next.pinned], groups: structuredClone(next.groups) };
      accepted = structuredClone(marks);
      show(true);
      for (const name of ["nodes", "edges"]) {
        const { input, output } = sliders[name];
        input.max = next.most[name];
        if (fresh || !moving) input.value = next.at[name];
        output.textContent = input.value;
        fillTrack(input);
      }
      told.textContent = next.saved === false ? say("not-saved") : "";
      if (fresh) {
        awaiting = false;
        faithfulness.dd.textContent = completeness.dd.textContent = "–";
        told.textContent = "";
        if (shows() && !recorded(run)) P.address(run);
      }
      paintParts();
      paintTrust();
      moving = null;
      // Whoever only looks at the shipped example takes no time from those who decode.
      if (fresh && recorded(run)) line.textContent = say("recorded");
      else if (fresh) moving = setTimeout(() => tell(false), 30);
    }
    watch("value", update);
    update();

    /* A run in the address is opened; the run of another page is put back when that is shown again. */
    if (P.embedded) return;
    const inAddress = () => new URL(location.href).searchParams.get("run") ?? "";
    const arrive = () => {
      if (!shows()) {
        if (outside !== null) {
          if (outside) P.address(outside);
          else if (run && inAddress() === run) {
            const url = new URL(location.href);
            url.searchParams.delete("run");
            history.replaceState(history.state, "", url);
          }
          outside = null;
        }
        return;
      }
      const asked = inAddress();
      if (awaiting) return void (outside = asked);
      outside = asked === run ? "" : asked;
      if (asked && asked !== run) {
        P.state.circuitExampleAwaited = false;
        trigger("open", { run: asked });
      }
      else if (run) recorded(run) || P.address(run);
      else if (P.state.circuitExample) example();
    };
    new MutationObserver(arrive).observe(document.body, { attributes: true, attributeFilter: ["data-page"] });
    arrive();
    setTimeout(() => shows() && !run && arrive(), 1500);
  };

  /* The list of components stands in a place of its own, so that the sliders can stay in sight while one scrolls. */
  P.kinds["circuit-parts"] = (element) => {
    P.state.partsPlace = element;
    P.state.placeParts?.(element);
  };

  P.kinds["circuit-node"] = (element, { props, trigger, watch }) => {
    let value = null;
    let ticket = 0;
    let run = "";
    const name = make("h3");
    const close = make("button", { type: "button", class: "icon", text: "✕", "aria-label": P.say("play.close"), title: P.say("play.close"), onclick: () => shut() });
    const what = make("p", { class: "explains" });
    const real = make("button", { type: "button", class: "quiet strong", id: "circuit-patch", text: say("patch"), onclick: () => {
      real.disabled = true;
      trigger("patch", { run, node: value.id, sharing: value.sharing.length ? [value.unit, ...value.sharing] : [], ticket: `${P.page}${(ticket += 1)}` });
    } });
    const result = make("p", { class: "patched", role: "status", "aria-live": "polite" });
    const pin = make("button", { type: "button", class: "quiet", id: "circuit-pin", onclick: () => {
      value.pinned = !value.pinned;
      P.state.circuit.pin(value.id, value.pinned);
      paint();
    } });
    const group = make("input", { type: "text", id: "circuit-group", maxlength: GROUP, list: "circuit-groups", autocomplete: "off", placeholder: say("group-name"), "aria-label": say("group-name") });
    const known = make("datalist", { id: "circuit-groups" });
    const put = make("button", { type: "button", class: "quiet", id: "circuit-put", text: say("put"), onclick: () => regroup(group.value.trim()) });
    const out = make("button", { type: "button", class: "quiet", text: say("take-out"), onclick: () => regroup("") });
    const edges = make("div", { class: "node-edges" });
    const said = make("p", { class: "told", role: "status" });
    const card = make("section", { class: "card circuit-node", "aria-label": say("component"), tabindex: "-1", hidden: true },
      make("header", {}, name, close), what, make("div", { class: "node-acts" }, real, result),
      make("div", { class: "node-acts" }, pin, group, known, put, out), edges, said);
    element.replaceChildren(card);
    group.addEventListener("keydown", (event) => event.key === "Enter" && put.click());
    card.addEventListener("keydown", (event) => event.key === "Escape" && shut());

    function shut() {
      card.hidden = true;
      const id = value?.id;
      value = null;
      P.state.circuitNode.id = "";
      document.body.classList.remove("circuit-looking");
      if (id) document.querySelector(`.parts [data-node="${CSS.escape(id)}"]`)?.focus();
    }

    function regroup(name) {
      if (value) P.state.circuit.group(value.id, name), (value.group = name), paint();
    }

    P.state.circuitNode = {
      id: "",
      close: shut,
      look(id, focus) {
        run = P.state.circuit?.run ?? "";
        if (!run) return;
        this.id = id;
        for (const one of document.querySelectorAll(".parts [data-node]")) one.setAttribute("aria-pressed", String(one.dataset.node === id));
        trigger("look", { run, node: id, ticket: `${P.page}${(ticket += 1)}` });
        update.focus = focus;
      },
    };

    const link = (one, arrow) => make("li", {}, make("button", { type: "button", class: "edge", onclick: () => P.state.circuitNode.look(one.id, true) }, make("b", { text: one.id }), make("small", { text: ` ${arrow} ${one.into} ` }), make("span", { class: `num ${one.score < 0 ? "against" : "for"}`, text: signed(one.score, 3) })));
    const list = (title, all, arrow) => make("div", {}, make("h4", { text: say(title) }), all.length ? make("ol", {}, ...all.map((one) => link(one, arrow))) : make("p", { class: "explains", text: say("no-edges") }));

    function paint() {
      name.textContent = `${value.id}: ${say(`kind-${value.kind}`, { unit: value.unit, layer: value.layer })}`;
      const facts = [say("estimated", { score: signed(value.score, 3), how: value.how })];
      if (value.sharing.length) facts.push(say("shares", { heads: value.sharing.map((unit) => `a${value.layer}.${unit}`).join(", ") }));
      what.replaceChildren(document.createTextNode(facts.join(" ")), ...(value.strongest ? [document.createTextNode(" "), ...sentence("strongest", { token: token(value.strongest.token), place: document.createTextNode(value.strongest.place) })] : []));
      const [measured, busy] = [value.measured, value.state === "patching"];
      real.disabled = busy;
      result.replaceChildren(...(busy ? [document.createTextNode(say("patching"))] : measured === null || measured === undefined ? [] : sentence("patched", { guess: make("b", { text: signed(value.score, 3) }), truth: make("b", { text: signed(measured, 3) }), gap: document.createTextNode(signed(value.score - measured, 3)) })));
      const inner = ["head", "mlp"].includes(value.kind);
      for (const one of [pin, group, put, out]) one.hidden = !inner;
      pin.textContent = `${mark(value.pinned)}${say(value.pinned ? "unpin" : "pin")}`;
      pin.setAttribute("aria-pressed", String(value.pinned));
      const [mine, names] = [P.state.circuit?.groupOf(value.id) || value.group, Object.keys(P.state.circuit?.marks.groups ?? {})];
      out.hidden = !inner || !mine;
      if (document.activeElement !== group) group.value = mine;
      known.replaceChildren(...names.map((one) => make("option", { value: one })));
      edges.replaceChildren(list("incoming", value.incoming, "→"), list("outgoing", value.outgoing, "→"));
      said.textContent = value.said ? P.say(value.said) : value.state === "reading" ? say("reading-pattern") : value.state === "weighing" ? say("attending") : "";
    }

    function update() {
      const next = P.parse(props.value, null);
      if (!next) return;
      if (!next.ticket) return next.run !== run && !card.hidden ? shut() : undefined;
      if (next.ticket !== `${P.page}${ticket}`) return;
      if (next.problem) return (said.textContent = next.problem), void (real.disabled = false);
      if (!next.id) return (card.hidden = false), void (said.textContent = P.say(next.said));
      const first = value?.id !== next.id;
      value = next;
      card.hidden = false;
      paint();
      if (!first) return;
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
      if (update.focus) card.focus({ preventScroll: true });
      card.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
    }
    watch("value", update);
    update();

    document.addEventListener("picked-node", (event) => shows() && event.detail.run === P.state.circuit?.run && P.state.circuitNode.look(event.detail.id));
  };
})();
