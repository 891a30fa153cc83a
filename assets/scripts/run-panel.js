/* What the Sessions page shows of chosen runs: two side by side, one repeated, or the tree of branches. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const say = (name, args) => P.say(`sessions.${name}`, args);
  const LONG = 60; // tokens of an equal stretch that are shown; the middle of a longer one is folded

  P.kinds["run-panel"] = (element, { props, trigger, watch }) => {
    const heading = make("h2", { tabindex: "-1" });
    const body = make("div", { class: "panel-body" });
    const close = make("button", { type: "button", class: "quiet close", text: P.say("play.close"), onclick: hide });
    const panel = make("section", { class: "card run-panel", "aria-label": say("panel"), hidden: true }, make("header", {}, heading, close), body);
    element.replaceChildren(panel);
    let from = null; // what had the focus before
    let running = false;

    function hide() {
      if (running) trigger("stop", { page: P.page });
      running = false;
      panel.hidden = true;
      from?.isConnected && from.focus();
    }
    panel.addEventListener("keydown", (event) => event.key === "Escape" && hide());

    /* Called at the click, so that the panel is there before the answer. */
    P.state.panel = (what) => {
      from = document.activeElement;
      heading.textContent = say({ diff: "beside-title", family: "branches-title", rerun: "again-title" }[what]);
      body.replaceChildren(make("p", { class: "explains", text: say("looking") }));
      panel.hidden = false;
      heading.focus({ preventScroll: true });
      panel.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    };

    const open = (id) => (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      P.state.go("play");
      trigger("open", { run: id, page: P.page });
    };
    const link = (run, label) => make("a", { href: `?run=${encodeURIComponent(run.id)}`, class: "run-link", onclick: open(run.id) }, make("b", { text: label ?? run.method }), document.createTextNode(" "), make("span", { class: "prompt", text: run.prompt, dir: "auto" }));
    const token = (one) => (one ? make("span", { class: "tok-shown" }, ...P.spell(one, true)) : make("i", { text: say("ended") }));
    const number = (p) => (p === null || p === undefined ? "–" : P.percent(p));

    function stretch(tokens, same, mark) {
      const cell = make("div", { class: same ? "stretch same" : "stretch changed", dir: "auto" });
      const put = (some) => some.forEach((one) => cell.append(make("span", { class: one.text?.trim() === "" && !one.hex ? "tok-shown blank" : "tok-shown" }, ...P.spell(one, !same && one.text?.trim() === ""))));
      if (same && tokens.length > LONG) {
        put(tokens.slice(0, LONG / 2));
        const fold = make("button", { type: "button", class: "quiet fold", text: say("fold", { n: tokens.length - LONG }), onclick: () => (cell.replaceChildren(), put(tokens)) });
        cell.append(fold);
        put(tokens.slice(-LONG / 2));
      } else put(tokens);
      if (!same) cell.prepend(make("span", { class: "sign", "aria-hidden": "true", text: mark }));
      if (!same && !tokens.length) cell.append(make("i", { text: say("nothing-here") }));
      return cell;
    }

    function settings(rows, caption) {
      if (!rows.length) return null;
      const line = ([name, left, right]) => make("tr", {}, make("th", { scope: "row", text: named(name) }), make("td", { text: left, dir: "auto" }), make("td", { text: right, dir: "auto" }));
      return make("table", { class: "facts-table" }, make("caption", { text: caption }), make("tbody", {}, ...rows.map(line)));
    }
    const named = (name) => {
      const key = `sessions.setting-${name.replaceAll("_", "-")}`;
      const found = P.say(key);
      return found === key ? name.replaceAll("_", " ") : found;
    };

    function first(value, labels) {
      const { position, left, right } = value.first;
      const cell = (side) => [make("td", {}, token(side.token)), make("td", { class: "num", text: number(side.p) }), make("td", { class: "num", text: number(side.other) })];
      return make("table", { class: "facts-table first" },
        make("caption", { text: say("first", { place: position + 1, shared: value.shared }) }),
        make("thead", {}, make("tr", {}, make("td"), make("th", { scope: "col", text: say("wrote") }), make("th", { scope: "col", class: "num", text: say("own-p") }), make("th", { scope: "col", class: "num", text: say("other-p"), title: say("other-p-why") }))),
        make("tbody", {}, ...[left, right].map((side, index) => make("tr", {}, make("th", { scope: "row", text: labels[index] }), ...cell(side)))));
    }

    /* Whether the text keeps to the run's constraint, if it had one. */
    const verdict = (found) => (found ? make("small", { class: `kept-to ${found.tone}`, text: `${found.mark} ${P.say(found.says)}${found.why ? ` ${found.why}` : ""}`, dir: "auto" }) : null);

    function diff(value, labels) {
      const grid = make("div", { class: "diff" }, ...value.runs.map((run, index) => make("div", { class: "diff-head" }, make("small", { text: labels[index] }), link(run), make("small", { text: say("tokens", { n: value.lengths[index] }) }), verdict(value.verdicts?.[index]))));
      for (const block of value.blocks) {
        if (block.same) grid.append(make("div", { class: "both" }, stretch(block.left, true)));
        else grid.append(stretch(block.left, false, "−"), stretch(block.right, false, "+"));
      }
      return grid;
    }

    const kinds = {
      diff(value) {
        const labels = [say("left"), say("right")];
        heading.textContent = say("beside-title");
        const parts = [
          value.first ? null : make("p", { class: "verdict good", text: value.lengths[0] === value.lengths[1] ? `✓ ${say("same-text", { n: value.shared })}` : `✓ ${say("same-so-far", { n: value.shared })}` }),
          value.first ? first(value, labels) : null,
          settings(value.settings, say("asked-differently")),
          settings(value.circumstances, say("made-differently")),
          !value.settings.length && !value.circumstances.length ? make("p", { class: "explains", text: say("asked-same") }) : null,
          diff(value, labels),
        ];
        body.replaceChildren(...parts.filter(Boolean));
      },

      rerun(value) {
        const labels = [say("kept"), say("new")];
        heading.textContent = say("again-title");
        const verdict = value.identical
          ? make("p", { class: "verdict good", role: "status", text: `✓ ${say(value.cut ? "identical-so-far" : "identical", { n: value.shared })}` })
          : make("p", { class: "verdict bad", role: "status", text: `≠ ${say("differs", { place: value.shared + 1 })}` });
        const why = value.circumstances.length ? settings(value.circumstances, say(value.identical ? "although" : "perhaps")) : value.identical ? null : make("p", { class: "explains", text: say("no-cause") });
        const parts = [verdict, value.first ? first(value, labels) : null, why, settings(value.settings, say("asked-differently")), value.identical ? make("p", { class: "pair" }, link(value.runs[0], labels[0]), link(value.runs[1], labels[1])) : diff(value, labels)];
        body.replaceChildren(...parts.filter(Boolean));
      },

      busy(value) {
        heading.textContent = say("again-title");
        const stop = make("button", { type: "button", class: "quiet", text: P.say("play.stop"), onclick: () => trigger("stop", { page: P.page }) });
        const held = body.querySelector("progress");
        if (held) return (held.value = value.fraction ?? 0), void (body.querySelector(".doing").textContent = P.say(value.text));
        body.replaceChildren(make("p", { class: "explains doing", role: "status", text: P.say(value.text) }), make("progress", { max: 1, value: value.fraction ?? 0, "aria-label": P.say(value.text) }), make("p", {}, link(value.of), document.createTextNode(" "), stop));
      },

      problem(value) {
        body.replaceChildren(make("p", { class: "verdict bad", role: "alert", text: P.say(value.text) }));
      },

      /* One row per run, as long as its text; a branch begins where it left its parent, under a line from there. */
      family(value) {
        heading.textContent = say("branches-title");
        const { members } = value;
        if (members.length < 2) return body.replaceChildren(make("p", { class: "explains", text: say("no-branches") }));
        const longest = Math.max(1, ...members.map((one) => one.tokens));
        const at = (tokens) => `${(100 * tokens) / longest}%`;
        const rows = new Map(members.map((one, index) => [one.id, index]));
        const tree = make("ol", { class: "tree", "aria-label": say("branches") });
        members.forEach((one, index) => {
          const from = one.depth ? one.position : 0;
          const track = make("div", { class: "track", "aria-hidden": "true" });
          if (one.depth) {
            const up = index - (rows.get(one.parent) ?? index - 1);
            const stem = make("i", { class: "stem" });
            stem.style.left = at(from);
            stem.style.setProperty("--up", up);
            track.append(stem);
          }
          const run = make("i", { class: `line${one.id === value.chosen ? " here" : ""}` });
          run.style.left = at(from);
          run.style.width = at(Math.max(one.tokens - from, longest / 100));
          track.append(run);
          const label = make("div", { class: "label" },
            one.method || !one.foreign ? make("a", { href: `?run=${encodeURIComponent(one.id)}`, class: "run-link", onclick: open(one.id), "aria-current": one.id === value.chosen ? "true" : null }, make("b", { text: one.name || one.method })) : make("b", { text: say("unknown-run") }),
            make("span", { class: "facts", text: one.foreign ? say("not-yours") : one.depth ? say("from-token", { place: from + 1, n: one.tokens - from }) : say("root", { n: one.tokens }) }),
            make("span", { class: "output", text: one.depth ? `… ${one.text}` : one.text || one.prompt || "", dir: "auto" }));
          const item = make("li", { "aria-level": one.depth + 1 }, track, label);
          item.style.setProperty("--from", from / longest);
          tree.append(item);
        });
        body.replaceChildren(make("p", { class: "explains", text: say("tree-why") }), tree);
      },
    };

    function update() {
      const value = P.parse(props.value, null);
      if (!value?.kind || panel.hidden) return;
      running = value.kind === "busy";
      kinds[value.kind]?.(value);
      if (value.kind === "rerun") P.state.refreshSessions?.();
    }
    watch("value", update);
  };
})();
