/* The left rail: a grouped, searchable picker; controls made from a method's settings; calm messages. */
(() => {
  const P = window.Playground;
  const { make } = P;

  /* One picker for methods, prompts and models: a button that opens a filtered list with groups. */
  P.kinds.picker = (element, { props, trigger, watch }) => {
    let value = { label: "", groups: [], selected: "" };
    let active = 0;
    const id = `picker-${P.page.slice(0, 6)}-${Math.floor(performance.now() * 1000)}`;

    const label = make("span", { class: "label", id: `${id}-label` });
    const chosen = make("button", { type: "button", class: "chosen", "aria-haspopup": "listbox", "aria-expanded": "false", "aria-labelledby": `${id}-label ${id}-chosen`, id: `${id}-chosen`, onclick: () => toggle() });
    const search = make("input", { type: "text", role: "combobox", class: "search", placeholder: P.say("play.search"), "aria-label": P.say("play.search"), "aria-expanded": "true", "aria-controls": `${id}-list`, autocomplete: "off", spellcheck: "false", oninput: () => ((active = 0), list()) });
    const options = make("div", { class: "options", role: "listbox", id: `${id}-list` });
    const pop = make("div", { class: "picker-pop", hidden: true }, search, options);
    const box = make("div", { class: "picker" }, label, chosen, pop);
    element.replaceChildren(box);

    const all = () => value.groups.flatMap((group) => group.options);
    const groupOf = (option) => value.groups.find((group) => group.options.includes(option));
    const matches = (option, group) => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const text = `${option.title} ${option.id} ${P.say(option.note)} ${P.say(group.title)}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };

    function paint() {
      label.textContent = P.say(value.label);
      label.hidden = !value.label;
      const option = all().find((one) => one.id === value.selected);
      chosen.replaceChildren(make("b", { text: option?.title ?? P.say(value.placeholder ?? "play.choose") }), make("small", { text: value.kind === "method" ? P.say(groupOf(option)?.title ?? "").split(":")[0].toLowerCase() : P.say(option?.note) }));
      if (value.kind === "method") P.state.method = option?.title;
    }

    function list() {
      const shown = [];
      options.replaceChildren();
      for (const group of value.groups) {
        const hits = group.options.filter((option) => matches(option, group));
        if (!hits.length) continue;
        const box = make("div", { role: "group", "aria-label": P.say(group.title) }, make("div", { class: "group-title", text: P.say(group.title) }));
        for (const option of hits) {
          const node = make("div", {
            role: "option", id: `${id}-${shown.length}`, class: "option", "data-id": option.id,
            "aria-selected": String(option.id === value.selected), "aria-disabled": option.blocked ? "true" : null,
            onclick: () => pick(option),
          }, make("b", { text: option.title }), make("small", { text: P.say(option.blocked || option.note) }));
          shown.push([option, node]);
          box.append(node);
        }
        options.append(box);
      }
      if (!shown.length) options.append(make("p", { class: "none", text: P.say(value.free ? "play.use-name" : "play.nothing-matches") }));
      active = Math.max(0, Math.min(active, shown.length - 1));
      shown.forEach(([, node], index) => node.classList.toggle("active", index === active));
      search.setAttribute("aria-activedescendant", shown[active]?.[1].id ?? "");
      shown[active]?.[1].scrollIntoView({ block: "nearest" });
      return shown;
    }

    function toggle(open = pop.hidden) {
      pop.hidden = !open;
      chosen.setAttribute("aria-expanded", String(open));
      if (!open) return;
      search.value = "";
      active = Math.max(0, all().findIndex((option) => option.id === value.selected));
      list();
      search.focus();
    }

    function pick(option) {
      if (option.blocked) return;
      value = { ...value, selected: option.id };
      props.value = JSON.stringify(value);
      paint();
      toggle(false);
      chosen.focus();
      trigger("pick", { id: option.id });
    }

    search.addEventListener("keydown", (event) => {
      const shown = [...options.querySelectorAll(".option")];
      if (event.key === "ArrowDown") active = Math.min(active + 1, shown.length - 1), list();
      else if (event.key === "ArrowUp") active = Math.max(active - 1, 0), list();
      else if (event.key === "Enter") {
        const hit = all().find((option) => option.id === shown[active]?.dataset.id);
        if (hit) pick(hit);
        else if (value.free && search.value.trim()) pick({ id: search.value.trim() });
      } else if (event.key === "Escape" || event.key === "Tab") {
        toggle(false);
        if (event.key === "Escape") chosen.focus();
        else return;
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!box.contains(event.target)) toggle(false);
    });

    function update() {
      const next = P.parse(props.value, value);
      // News about what is possible must not undo what was chosen meanwhile.
      value = next.keep ? { ...next, keep: false, selected: value.selected } : next;
      if (next.keep) props.value = JSON.stringify(value);
      paint();
      if (!pop.hidden) list();
    }
    watch("value", update);
    update();
  };

  /* What a method is: its idea, what to look at, the paper, and whether it changes the output. */
  P.kinds.card = (element, { props, watch }) => {
    const box = make("div", { class: "method-card" });
    element.replaceChildren(box);
    function update() {
      const card = P.parse(props.value, {});
      box.replaceChildren(
        P.gloss(make("p", { class: "idea" }, P.translated(`methods.${card.id}.idea`, card.idea ?? ""), card.look_at ? make("span", { class: "look", text: ` ${P.translated(`methods.${card.id}.look_at`, card.look_at)}` }) : null)),
        make("p", { class: "facts" },
          make("span", { class: `badge ${card.lossless ? "lossless" : "lossy"}`, text: P.say(card.badge), title: P.say(card.badge_title) }),
          card.paper ? (card.link ? make("a", { href: card.link, target: "_blank", rel: "noopener", text: card.paper }) : make("span", { text: card.paper })) : null,
        ),
      );
    }
    watch("value", update);
    update();
  };

  P.kinds.chips = (element, { props, trigger, watch }) => {
    const box = make("div", { class: "chips" });
    element.replaceChildren(box);
    function update() {
      const chips = P.parse(props.value, []);
      box.replaceChildren(...chips.map((chip) => make("button", { type: "button", class: "chip", text: P.say(chip.label), title: chip.title ?? "", onclick: () => trigger("pick", { id: chip.id }) })));
    }
    watch("value", update);
    update();
  };

  /* Sliders, numbers, choices and switches from settings; the value that travels is {settings, values}. */
  P.kinds.controls = (element, { props, watch, server }) => {
    let state = { settings: [], values: {} };
    const front = make("div", { class: "fields" });
    const rest = make("div", { class: "fields" });
    const summary = make("summary");
    const more = make("details", { class: "more" }, summary, rest);
    more.addEventListener("toggle", () => more.open && more.scrollIntoView({ block: "nearest" }));
    const constrained = make("div", { class: "constrained" });
    element.replaceChildren(make("div", { class: "controls" }, front, constrained, more));

    function set(name, entry) {
      state.values[name] = entry;
      props.value = JSON.stringify(state);
      summarise();
    }

    function summarise() {
      const hidden = state.settings.filter((setting) => setting.more && !setting.section);
      const said = hidden.filter((setting) => setting.summary).map((setting) => `${P.say(setting.label).toLowerCase()} ${state.values[setting.name] ?? P.say("play.off")}`);
      summary.textContent = [...said, P.say("play.more")].join(" · ");
      more.hidden = !hidden.length;
    }

    function field(setting) {
      const id = `${state.prefix ?? "set"}-${setting.name}`;
      const value = state.values[setting.name];
      const label = make("label", { for: id, text: P.say(setting.label), title: P.say(setting.help) });
      const help = make("small", { class: "help", id: `${id}-help`, text: P.say(setting.help) });
      if (setting.kind === "bool") {
        const input = make("input", { type: "checkbox", id, "aria-describedby": help.id, onchange: () => set(setting.name, input.checked) });
        input.checked = Boolean(value);
        return make("div", { class: "field switch", title: P.say(setting.help) }, input, label, help);
      }
      if (setting.choices?.length) {
        const input = make("select", { id, "aria-describedby": help.id, onchange: () => set(setting.name, input.value) }, ...setting.choices.map((choice) => make("option", { value: choice, text: choice })));
        input.value = value ?? "";
        return make("div", { class: "field" }, label, input, help);
      }
      if (setting.kind === "str" && setting.editor) {
        // An empty field means off, which a text of several lines cannot be.
        const input = make("textarea", { class: "code", id, rows: 5, wrap: "off", spellcheck: "false", autocapitalize: "off", dir: "ltr", "aria-describedby": help.id, oninput: () => set(setting.name, input.value || "\n") });
        input.value = value ?? "";
        return make("div", { class: "field lines" }, label, input, help);
      }
      if (setting.kind === "str") {
        const input = make("input", { type: "text", id, "aria-describedby": help.id, placeholder: P.say(setting.placeholder), autocomplete: "off", oninput: () => set(setting.name, input.value) });
        input.value = value ?? "";
        return make("div", { class: "field" }, label, input, help);
      }
      const hasRange = setting.low !== null && setting.high !== null && setting.high - setting.low <= 100000 && !setting.plain;
      const number = make("input", { type: "text", inputmode: "decimal", class: "number", id, "aria-describedby": help.id, placeholder: setting.optional ? P.say("play.off") : setting.automatic ? P.say("play.auto") : "", autocomplete: "off", oninput: () => (hasRange && follow(), set(setting.name, number.value.trim() || (setting.automatic ? "0" : ""))) });
      const spell = (chosen) => (setting.automatic && Number(chosen) === 0 ? "" : chosen);
      number.value = spell(value ?? "");
      if (!hasRange) return make("div", { class: "field inline" }, label, number, help);
      const step = setting.kind === "int" ? 1 : Number(((setting.high - setting.low) / 100).toPrecision(1));
      const range = make("input", { type: "range", min: setting.low, max: setting.high, step, "aria-label": P.say(setting.label), tabindex: "-1", oninput: () => ((number.value = spell(range.value)), fill(), set(setting.name, range.value)) });
      const fill = () => range.style.setProperty("--filled", `${(100 * (range.value - setting.low)) / (setting.high - setting.low)}%`);
      function follow() {
        if (number.value !== "" && Number.isFinite(Number(number.value))) range.value = number.value;
        else if (number.value === "") range.value = setting.low;
        fill();
      }
      follow();
      return make("div", { class: "field ranged" }, label, number, range, help);
    }

    function update() {
      const value = P.parse(props.value, null);
      if (!value) return;
      state = value;
      front.replaceChildren(...state.settings.filter((setting) => !setting.more && !setting.section).map(field));
      rest.replaceChildren(...state.settings.filter((setting) => setting.more && !setting.section).map(field));
      const settings = state.settings.filter((setting) => setting.section === "constraint");
      const get = (name) => state.values[name];
      const editor = settings.length ? P.constraint({ settings, prefix: state.prefix ?? "set", get, set, server, page: element.closest(".page") }) : null;
      constrained.replaceChildren(...(editor ? [editor] : []));
      // Where the constraint is the point of the method, it comes first.
      constrained.classList.toggle("first", settings.some((setting) => setting.choices?.length && setting.default !== "none"));
      summarise();
    }
    watch("value", update);
    update();
  };

  P.kinds.heading = (element, { props, watch }) => {
    function update() {
      const { title, explains } = P.parse(props.value, {});
      element.replaceChildren(make("h2", { text: P.say(title) }), make("p", { class: "explains", text: P.say(explains) }));
    }
    watch("value", update);
    update();
  };

  P.kinds.message = (element, { props, watch }) => {
    const box = make("div", { class: "message", role: "status", "aria-live": "polite", hidden: true });
    element.replaceChildren(box);
    function update() {
      const message = P.parse(props.value, {});
      box.hidden = !message.text;
      box.className = `message ${message.tone ?? "calm"}`;
      const done = message.fraction;
      box.replaceChildren(
        make("p", { text: P.say(message.text), dir: "auto" }),
        ...(done === undefined || done === null ? [] : [make("progress", { max: 1, value: done, "aria-label": P.say(message.text) })]),
      );
    }
    watch("value", update);
    update();
  };
})();
