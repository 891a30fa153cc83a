/* The editor of a constraint, a folded part of the controls; and the line that says whether the output is valid.
   What is typed is used as it stands when Run is pressed. Reading it aloud to the server is a courtesy: it comes late,
   never in the way, and only the answer to the latest question counts. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const say = (name, args) => P.say(`constraint.${name}`, args);
  const PAUSE = 450; // ms without a keystroke before a text is read
  const MOST = 262144; // characters
  const MOST_LINES = 9999; // numbered lines
  const AROUND = 24; // characters shown before and behind a mistake
  const ORDER = ["none", "json schema", "regex", "grammar", "choices"];
  const word = (kind) => say(`kind-${kind.replaceAll(" ", "-")}`);
  const same = (a, b) => a.replace(/\s+$/, "") === b.replace(/\s+$/, "");

  const gallery = (server) => (P.state.grammars ??= server.gallery({}).then((all) => (Array.isArray(all) ? all : [])).catch(() => ((P.state.grammars = null), [])));
  const titled = (one) => P.translated(`grammars.${one.id}.title`, one.title);

  /* `settings` are those of this part: the text and, where a method takes more than grammars, its kind. `get(name)` and
     `set(name, value)` are the controls'. */
  P.constraint = ({ settings, prefix, get, set, server, page }) => {
    const [kinds, text] = [settings.find((one) => one.choices?.length), settings.find((one) => !one.choices?.length)];
    if (!text) return null;
    const choices = [...(kinds?.choices ?? ["grammar"])].sort((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b));
    let examples = [];
    let origin = null; // the gallery's grammar that the text was begun with
    let good = null; // the last text that was read without a mistake: { kind, text, title }
    let timer = 0;
    let asked = 0;
    const kept = {}; // kind → text, for those who change their mind

    const id = (name) => `${prefix}-${name}`;
    const now = make("span", { class: "now" });
    const summary = make("summary", { title: say("why") }, make("b", { text: say("title") }), now);
    const kind = make("select", { id: id(kinds?.name ?? "kind"), onchange: () => choose(kind.value) }, ...choices.map((one) => make("option", { value: one, text: word(one) })));
    const menu = make("select", { id: id("gallery"), "aria-label": say("gallery"), onchange: () => take(examples.find((one) => one.id === menu.value)) });
    const note = make("p", { class: "note" });
    const lines = make("pre", { class: "lines", "aria-hidden": "true" });
    const status = make("p", { class: "said", role: "status", id: id("said") });
    const area = make("textarea", { id: id(text.name), wrap: "off", spellcheck: "false", autocapitalize: "off", autocomplete: "off", maxlength: MOST, dir: "ltr", "aria-describedby": status.id, oninput: () => typed(), onscroll: () => (lines.scrollTop = area.scrollTop) });
    const room = make("button", { type: "button", class: "quiet room", text: say("expand"), "aria-pressed": "false", onclick: () => spread() });
    const place = make("pre", { class: "place", "aria-hidden": "true", hidden: true });
    const back = make("p", { class: "back", hidden: true });
    const editor = make("div", { class: "editor" }, lines, area);
    const body = make("div", { class: "body" }, make("div", { class: "bar" }, menu, room), note, editor, status, place, back);
    const field = make("div", { class: "field" }, make("label", { for: kind.id, text: say("kind"), title: kinds?.help ?? "" }), kind);
    field.hidden = !kinds;
    const box = make("details", { class: "constraint" }, summary, field, body);

    const chosen = () => (kinds ? (get(kinds.name) ?? "none") : "grammar");
    const on = () => chosen() !== "none";
    const named = (which, what) => {
      const known = examples.find((one) => one.kind === which && same(one.grammar, what));
      if (known) return titled(known);
      return origin && origin.kind === which ? say("changed", { title: titled(origin) }) : say("own");
    };

    function number(bad = 0) {
      const count = Math.min(MOST_LINES, (area.value.match(/\n/g)?.length ?? 0) + 1);
      const upto = (from, to) => Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i).join("\n");
      if (bad < 1 || bad > count) lines.textContent = upto(1, count + 1);
      else lines.replaceChildren(upto(1, bad) + (bad > 1 ? "\n" : ""), make("mark", { text: `✕${bad}` }), (bad < count ? "\n" : "") + upto(bad + 1, count + 1));
      area.rows = Math.max(4, Math.min(14, count + 1));
      lines.scrollTop = area.scrollTop;
    }

    function paint() {
      const active = on();
      kind.value = chosen();
      body.hidden = !active;
      now.textContent = active ? `${word(kind.value)}: ${named(kind.value, area.value)}` : word("none");
      area.classList.toggle("whole", kind.value === "regex"); // one line, and all of it to be seen
      area.setAttribute("aria-label", active ? say(`edit-${kind.value.replaceAll(" ", "-")}`) : "");
      const known = examples.find((one) => one.kind === kind.value && same(one.grammar, area.value));
      const shown = known ?? (origin?.kind === kind.value ? origin : null);
      menu.value = known?.id ?? "";
      note.replaceChildren();
      if (shown) note.append(P.translated(`grammars.${shown.id}.note`, shown.note));
      const target = prompt();
      if (shown?.prompt && target && target.value !== shown.prompt) note.append(" ", make("button", { type: "button", class: "quiet", text: say("use-prompt"), title: shown.prompt, onclick: () => ((prompt().value = shown.prompt), prompt().dispatchEvent(new Event("input", { bubbles: true })), paint()) }));
    }
    const prompt = () => page?.querySelector(".prompt-card textarea");

    function fill() {
      menu.replaceChildren(make("option", { value: "", text: `${say("gallery")}: ${say("choose")}` }));
      for (const one of choices.filter((which) => examples.some((example) => example.kind === which)))
        menu.append(make("optgroup", { label: word(one) }, ...examples.filter((example) => example.kind === one).map((example) => make("option", { value: example.id, text: titled(example) }))));
    }

    /* An empty field of a form means off; a text that was emptied must not pass for the method's own. */
    const send = () => set(text.name, area.value || (on() ? "\n" : undefined));

    function put(which, what) {
      area.value = what;
      if (kinds) set(kinds.name, which);
      send();
      number();
      paint();
      hush();
      if (which !== "none") read();
    }

    function take(example) {
      if (!example) return;
      origin = example;
      put(example.kind, example.grammar);
      area.scrollTop = area.scrollLeft = lines.scrollTop = 0;
    }

    async function choose(which) {
      if (on()) kept[chosen()] = area.value;
      if (which === "none") return put("none", text.default ?? "");
      examples = await load();
      const first = examples.find((one) => one.kind === which);
      if (kept[which] === undefined && first) origin = first;
      put(which, kept[which] ?? first?.grammar ?? "");
    }

    function typed() {
      send();
      number();
      paint();
      place.hidden = true;
      status.classList.add("old");
      clearTimeout(timer);
      asked++;
      timer = setTimeout(read, PAUSE);
    }

    function hush() {
      status.className = "said";
      status.textContent = "";
      place.hidden = back.hidden = true;
      area.removeAttribute("aria-invalid");
    }

    async function read() {
      clearTimeout(timer);
      const mine = ++asked;
      const [which, what] = [chosen(), area.value];
      const slow = setTimeout(() => mine === asked && ((status.className = "said"), (status.textContent = say("reading"))), 700);
      const told = await server.read({ kind: which, grammar: what, tabled: !kinds }).catch(() => null);
      clearTimeout(slow);
      if (mine !== asked) return;
      hush();
      if (!told || told.busy) return void (status.textContent = say(told ? "busy" : "unread"));
      if (told.good) {
        good = { kind: which, text: what, title: named(which, what), origin };
        status.className = "said good";
        status.textContent = `✓ ${say("ok", { ms: told.milliseconds < 10 ? told.milliseconds.toFixed(1) : Math.round(told.milliseconds) })}`;
        return number();
      }
      status.className = "said bad";
      status.textContent = `✕ ${told.says}`;
      area.setAttribute("aria-invalid", "true");
      number(told.line);
      if (told.line) point(told.line, told.column);
      if (good && !(good.kind === which && good.text === what)) {
        const was = good;
        back.replaceChildren(say("last-good", { title: `${word(was.kind)}, ${was.title}` }), " ", make("button", { type: "button", class: "quiet", text: say("go-back"), onclick: () => ((origin = was.origin), put(was.kind, was.text)) }));
        back.hidden = false;
      }
    }

    /* The line of the mistake with a caret under it; a click goes there. */
    function point(line, column) {
      const all = area.value.split("\n");
      const found = all[line - 1];
      if (found === undefined) return;
      const at = Math.max(0, Math.min(column - 1, found.length));
      const start = Math.max(0, at - AROUND);
      const flat = (some) => some.replace(/[\t\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, " ");
      const cut = flat(found.slice(start, at + AROUND));
      place.replaceChildren(make("button", { type: "button", class: "quiet", "aria-label": say("show-place", { line, column }), title: say("show-place", { line, column }), onclick: () => go(all.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0) + at, line) }, `${start ? "…" : ""}${cut}${at + AROUND < found.length ? "…" : ""}\n${" ".repeat(at - start + (start ? 1 : 0))}^`));
      place.removeAttribute("aria-hidden");
      place.hidden = false;
    }

    function go(offset, line) {
      area.focus();
      area.setSelectionRange(offset, offset);
      area.scrollTop = Math.max(0, (line - 4) * parseFloat(getComputedStyle(area).lineHeight));
    }

    function spread(open = !box.classList.contains("spread")) {
      box.classList.toggle("spread", open);
      room.textContent = say(open ? "shrink" : "expand");
      room.setAttribute("aria-pressed", String(open));
    }
    box.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !box.classList.contains("spread")) return;
      event.stopPropagation();
      spread(false);
      room.focus();
    });

    const load = async () => {
      const all = await gallery(server);
      if (examples === all) return all;
      examples = all;
      origin ??= on() ? (all.find((one) => one.kind === chosen() && same(one.grammar, area.value)) ?? null) : null;
      fill();
      paint();
      return all;
    };

    area.value = get(text.name) ?? "";
    number();
    fill();
    paint();
    box.open = on();
    box.addEventListener("toggle", () => box.open && load());
    if (on()) load().then(read);
    return box;
  };

  /* Whether the output of the run that is shown keeps to its constraint; nothing where there was none. */
  P.kinds.validity = (element, { server }) => {
    let run = null;
    let live = false;
    let open = false;
    const block = element.closest(".block") ?? element;
    const mark = make("span", { class: "mark", "aria-hidden": "true" });
    const says = make("span", { class: "says", role: "status" });
    const why = make("span", { class: "why", dir: "auto" });
    const json = make("pre", { class: "pretty", tabindex: "0", hidden: true });
    const more = make("button", { type: "button", class: "more-json", "aria-expanded": "false", onclick: () => ((open = !open), unfold()) });
    const strip = make("section", { class: "card validity", "aria-label": say("result") }, mark, says, why, more, json);
    element.replaceChildren(strip);
    block.classList.add("no-verdict");

    function unfold() {
      json.hidden = !open;
      more.textContent = say(open ? "hide-json" : "show-json");
      more.setAttribute("aria-expanded", String(open));
    }

    async function follow(state) {
      if (state.run === run && Boolean(state.live) === live) return;
      [run, live] = [state.run, Boolean(state.live)];
      block.classList.add("no-verdict");
      if (live || !run) return;
      const value = P.parse(await server.verdict({ run }).catch(() => ""), null);
      if (!value || value.run !== run || live) return;
      strip.className = `card validity ${value.tone ?? ""}`;
      mark.textContent = value.mark;
      says.textContent = P.say(value.says);
      why.textContent = value.why ?? "";
      json.textContent = value.pretty ?? "";
      more.hidden = !value.pretty;
      open = open && Boolean(value.pretty);
      unfold();
      block.classList.remove("no-verdict");
    }

    const page = element.closest(".page") ?? document;
    page.addEventListener("playground:step", ({ detail }) => follow(detail));
    const bar = page.querySelector(".scrubber");
    if (bar?.dataset.run) follow({ run: bar.dataset.run, live: bar.classList.contains("live") });
  };
})();
