/* The Compare page: lanes that grow while they run, results, outputs side by side, and the race again on its own clock. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const say = (name, args) => P.say(`compare.${name}`, args);
  const PLACES = [0, 1, 2, 3];
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const fixed = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));

  P.kinds.race = (element, { props, trigger, watch }) => {
    let head = {};
    let texts = []; // per lane the JSON of each token on screen
    let tokens = [];
    let cards = [];
    let built = ""; // which comparison the cards belong to
    let time = Infinity;
    let end = 0;
    let playing = null;

    const about = make("section", { class: "card race-about", "aria-label": say("heading") });
    const lanes = make("div", { class: "lanes" });
    const replay = replayBar();
    const legend = make("ul", { class: "legend", "aria-label": P.say("play.colours") });
    const numbers = make("section", { class: "card race-numbers", "aria-label": say("numbers"), hidden: true });
    const aligned = make("section", { class: "card aligned", "aria-label": say("aligned"), hidden: true });
    element.replaceChildren(make("div", { class: "race" }, about, lanes, legend, replay.bar, numbers, aligned));

    function update() {
      const value = props.value || {};
      head = P.parse(value.head, {});
      const count = head.lanes?.length ?? 0;
      element.closest(".stage")?.classList.toggle("nothing-yet", !count);
      paintAbout();
      if (built !== head.id || cards.length !== count) build();
      PLACES.slice(0, count).forEach((place) => write(place, value[`lane${place}`] ?? []));
      head.live ? paintLive() : paintResult();
    }

    function build() {
      stop();
      built = head.id;
      texts = (head.lanes ?? []).map(() => []);
      tokens = texts.map(() => []);
      cards = (head.lanes ?? []).map(card);
      lanes.replaceChildren(...cards.map((one) => one.box));
      lanes.dataset.count = cards.length;
      P.state.comparison = head.id ?? "";
      if (!head.live) time = Infinity;
    }

    function card(lane) {
      const headline = make("p", { class: "headline" });
      const relation = make("div", { class: "relation" });
      const text = make("div", { class: "tokens lane-text", dir: "auto", tabindex: "0", role: "group", "aria-label": say("lane", lane) });
      const state = make("span", { class: "lane-state" });
      const open = make("a", { class: "lane-open", text: say("open"), hidden: true });
      open.addEventListener("click", (event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey) return;
        event.preventDefault();
        P.state.go("play");
        trigger("play", { run: open.dataset.run, page: P.page });
      });
      const badge = make("span", { class: `badge ${lane.lossless ? "lossless" : "lossy"}`, text: lane.lossless ? P.say("play.badge-lossless") : say("lossy") });
      const box = make("section", { class: "card lane", "data-letter": lane.letter, "aria-label": say("lane", lane) },
        make("header", {}, letter(lane.letter), make("h3", { text: lane.title }), badge),
        headline, relation, text, make("div", { class: "lane-foot" }, state, open));
      return { box, headline, relation, text, state, open };
    }

    const letter = (one) => make("span", { class: `letter letter-${one}`, text: one });

    function write(place, next) {
      const known = texts[place];
      let same = 0;
      while (same < known.length && same < next.length && known[same] === next[same]) same++;
      const box = cards[place].text;
      while (box.children.length > same) box.lastChild.remove();
      tokens[place].length = same;
      for (const one of next.slice(same)) {
        const token = JSON.parse(one);
        const node = make("span", { class: `tok ${token.role}${/^<\|.*\|>$/.test(token.text) ? " special" : ""}` });
        node.append(...P.spell(token));
        box.append(node);
        tokens[place].push(token);
      }
      texts[place] = [...next];
    }

    function paintAbout() {
      if (!head.lanes) {
        about.replaceChildren(make("h2", { text: say("heading") }), make("p", { class: "explains", text: say("empty") }), make("ol", {}, ...["learn-speed", "learn-text", "learn-work"].map((name) => make("li", { text: say(name) }))));
        return;
      }
      about.hidden = head.live;
      if (head.live) return;
      const copy = make("button", { type: "button", class: "quiet", text: say("copy"), onclick: () => {
        navigator.clipboard?.writeText(address(head.id).href).then(() => (copy.textContent = say("copied")));
      } });
      const many = head.whole === 1 ? say("rounds-done-one") : say("rounds-done", { n: head.whole });
      about.replaceChildren(make("p", { class: "asked" }, make("span", { class: "asked-label", text: say("asked") }), make("span", { class: "asked-prompt", dir: "auto", text: head.prompt }), make("small", { text: `${say("seed", { seed: head.seed })} · ${many}` }), head.kept && copy));
    }

    function paintLive() {
      stop();
      numbers.hidden = aligned.hidden = replay.bar.hidden = true;
      legend.replaceChildren();
      cards.forEach((one, place) => {
        const running = place === head.running;
        one.box.classList.toggle("running", running);
        one.headline.replaceChildren();
        one.relation.replaceChildren();
        one.open.hidden = true;
        one.state.textContent = running ? say("writing", { n: head.written }) : say("waiting");
        // In later rounds the text is there already: it fades in again as far as the run has come.
        [...one.text.children].forEach((node, index) => node.classList.toggle("ahead", running && head.round > 0 && index >= head.written));
        if (running && head.round === 0) one.text.scrollTop = one.text.scrollHeight;
      });
    }

    function paintResult() {
      if (!head.lanes) return;
      keepAddress();
      end = Math.max(...tokens.map((lane) => lane.at(-1)?.at ?? 0), 0);
      legend.replaceChildren(...(head.legend ?? []).map(({ role, label, mark }) => make("li", {}, make("i", { class: `swatch ${role}` }), `${P.translated(`roles.${role}`, label)} ${mark ?? ""}`.trim())));
      cards.forEach((one, place) => {
        const lane = head.lanes[place];
        one.box.classList.remove("running");
        one.headline.replaceChildren(...headline(lane.standing, place));
        one.relation.replaceChildren(...relation(lane, place));
        one.open.hidden = !lane.run;
        one.open.dataset.run = lane.run;
        one.open.href = `?run=${encodeURIComponent(lane.run)}`;
        mark(one, lane.standing);
      });
      numbers.hidden = !head.whole;
      if (head.whole) numbers.replaceChildren(...results());
      paintAligned();
      replay.bar.hidden = !end;
      replay.range.max = end;
      replay.why.textContent = calm.matches ? say("calm") : say("replay-why", { round: head.round + 1 });
      replay.play.hidden = calm.matches;
      seek(Infinity);
    }

    function headline(standing, place) {
      const { tokens_per_second: speed, speed_up: ratio } = standing;
      if (!speed) return [make("small", { text: say("unfinished") })];
      const per = [make("b", { text: fixed(speed.median, 1) }), ` ${say("per-second")}`];
      if (!place) return [...per, make("small", { text: say("is-baseline") })];
      if (!ratio) return per;
      const shown = ratio.median.toFixed(2);
      const words = shown === "1.00" ? "as-fast" : ratio.median < 1 ? "slower" : "faster";
      const spread = standing.rounds > 1 ? say("range", { low: fixed(ratio.minimum, 2), high: fixed(ratio.maximum, 2), n: standing.rounds }) : say("one-round");
      return [make("b", { text: shown }), ` ${say(words, { letter: "A" })}`, make("small", { text: `${spread} · ${fixed(speed.median, 1)} ${say("per-second")}` })];
    }

    function relation(lane, place) {
      const { relation: kind, parting, shared } = lane.standing;
      if (kind === "baseline") return [];
      const sign = { same: "✓", tie: "≈", broken: "✕", draws: "≠", purpose: "≠", unknown: "?" }[kind];
      const line = make("p", { class: `verdict-line ${kind}` }, make("span", { class: "sign", "aria-hidden": "true", text: sign }), make("span", { text: say(kind, { letter: "A", place: shared + 1, n: shared }) }));
      if (!parting) return [line];
      const gap = parting.gap === null ? say("no-gap") : say("gap", { gap: parting.gap.toPrecision(2) });
      const why = say(`${kind}-why`, { letter: "A", other: lane.letter, gap: kind === "tie" ? parting.gap.toPrecision(2) : gap });
      const side = (name, token, p) => make("span", { class: "side" }, `${say("wrote", { letter: name })} `, token ? make("span", { class: "alt-token" }, ...P.spell(token, true)) : make("i", { text: say("ended") }), token && p !== null ? ` ${say("p", { p: probability(p) })}` : "");
      return [line, make("p", { class: "parting" }, side("A", parting.theirs, parting.theirs_p), side(lane.letter, parting.ours, parting.ours_p)), make("p", { class: "explains", text: why })];
    }
    const probability = (p) => (p > 0.0001 && p < 0.9999 ? p.toFixed(4) : p.toPrecision(3));

    /* The first difference in the text itself: a sign before the token, and an outline. */
    function mark(one, standing) {
      for (const node of one.text.querySelectorAll(".first-difference")) node.classList.remove("first-difference", "broken");
      if (!standing.parting) return;
      const node = one.text.children[standing.parting.position];
      node?.classList.add("first-difference", standing.relation);
      node?.setAttribute("title", say("first-here", { letter: "A" }));
    }

    function results() {
      const spread = (value, digits, unit = "") => [`${fixed(value.median, digits)}${unit}`, make("small", { text: value.minimum === value.maximum ? "" : `${fixed(value.minimum, digits)}–${fixed(value.maximum, digits)}` })];
      const columns = [
        ["column-speed", ({ tokens_per_second: one }) => spread(one, 1)],
        ["column-ratio", ({ speed_up: one }) => (one ? spread(one, 2, "×") : ["–"])],
        ["column-per-pass", ({ totals }) => [fixed(totals.tokens_per_target_pass, 2)]],
        ["column-accepted", ({ totals }) => (totals.acceptance_rate === null ? [make("small", { text: say("no-guesses") })] : [`${Math.round(100 * totals.acceptance_rate)} %`, make("small", { text: say("accepted-of", { ...totals, tested: totals.accepted + totals.rejected }) })])],
        ["column-first", ({ time_to_first_token: one }) => [say("ms", { n: Math.round(1000 * one.median) }), make("small", { text: one.minimum === one.maximum ? "" : `${Math.round(1000 * one.minimum)}–${Math.round(1000 * one.maximum)}` })]],
        ["column-passes", ({ totals }) => [totals.target_passes + totals.prompt_passes + totals.draft_passes, make("small", { text: say("passes-of", { target: totals.target_passes, prompt: totals.prompt_passes, draft: totals.draft_passes }) })]],
        ["column-processed", ({ totals }) => [totals.tokens_processed]],
        ["column-tokens", ({ totals }) => [totals.tokens]],
      ];
      const row = (lane) => make("tr", {}, make("th", { scope: "row" }, letter(lane.letter), ` ${lane.title}`), ...columns.map(([, cell]) => make("td", { class: "num" }, ...(lane.standing.totals ? cell(lane.standing) : ["–"]))));
      const table = make("table", { class: "results" }, make("thead", {}, make("tr", {}, make("th", { scope: "col", text: say("column-method") }), ...columns.map(([name]) => make("th", { scope: "col", class: "num", text: say(name), title: name === "column-ratio" ? say("ratio-why") : null })))), make("tbody", {}, ...head.lanes.map(row)));
      return [make("h2", { text: say("numbers") }), make("p", { class: "explains", text: `${head.whole === 1 ? say("numbers-one") : say("numbers-why", { n: head.whole })} ${say("column-ratio")}: ${say("ratio-why")}` }), make("div", { class: "scroll-x", tabindex: "0", role: "group", "aria-label": say("numbers") }, table)];
    }

    function paintAligned() {
      const longest = Math.max(...tokens.map((lane) => lane.length), 0);
      const differs = Array.from({ length: longest }, (_, place) => tokens.some((lane) => lane[place]?.id !== tokens[0][place]?.id));
      const first = differs.indexOf(true);
      aligned.hidden = !longest || tokens.some((lane) => !lane.length);
      const said = first < 0 ? say("all-same", { n: longest }) : say("differ-from", { place: first + 1 });
      const box = make("div", { class: "scroll-x", tabindex: "0", role: "group", "aria-label": say("aligned") });
      const more = make("details", {}, make("summary", {}, make("h2", { text: say("aligned") }), make("span", { class: "explains", text: said })), make("p", { class: "explains", text: say("aligned-why") }), box);
      more.addEventListener("toggle", () => {
        if (!more.open || box.firstChild) return;
        box.append(grid(differs));
        // The first difference in sight, with a little of what everyone wrote before it.
        if (first > 3) box.scrollLeft = box.querySelectorAll("thead th")[first - 2].offsetLeft - box.querySelector("tbody th").offsetWidth;
      });
      aligned.replaceChildren(more);
      more.open = first >= 0;
    }

    function grid(differs) {
      const cell = (token, place) => {
        const differs = token?.id !== tokens[0][place]?.id;
        const node = make("td", { class: `${differs ? "differs " : ""}${token ? "" : "none"}`, dir: "auto" });
        node.append(...(token ? P.spell({ ...token, text: token.text.replaceAll("\n", "⏎") }, true) : ["–"]));
        return node;
      };
      const places = differs.map((one, place) => make("th", { scope: "col", "aria-label": say("place", { place: place + 1 }) }, one ? make("b", { text: "≠" }) : make("span", { text: place === 0 || (place + 1) % 5 === 0 ? String(place + 1) : "" })));
      return make("table", { class: "places" }, make("thead", {}, make("tr", {}, make("td"), ...places)),
        make("tbody", {}, ...tokens.map((lane, index) => make("tr", {}, make("th", { scope: "row", title: head.lanes[index].title }, letter(head.lanes[index].letter)), ...differs.map((_, place) => cell(lane[place], place))))));
    }

    /* The race again. Time is decode time: what a lane had decided by then is there, the rest is faint. */
    function replayBar() {
      const play = make("button", { type: "button", class: "play", text: say("play"), "aria-pressed": "false", onclick: () => (playing === null ? start() : stop()) });
      const label = make("span", { class: "step-label" });
      const range = make("input", { type: "range", min: 0, max: 1, step: "any", "aria-label": say("time"), oninput: () => (stop(), seek(Number(range.value))) });
      range.addEventListener("keydown", (event) => {
        const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!way) return;
        event.preventDefault(); // to the next decision of anyone, rather than by a share of the whole
        stop();
        const times = [...new Set(tokens.flatMap((lane) => lane.map((token) => token.at)))].sort((a, b) => a - b);
        const now = Math.min(time, end);
        seek(way > 0 ? (times.find((at) => at > now) ?? end) : (times.findLast((at) => at < now) ?? 0));
      });
      const speed = make("select", { "aria-label": say("speed") }, ...[[0.25, "×¼"], [0.5, "×½"], [1, "×1"], [2, "×2"], [4, "×4"]].map(([value, text]) => make("option", { value, text, selected: value === 1 })));
      const why = make("small", {});
      const bar = make("section", { class: "card scrubber replay", "aria-label": say("replay"), hidden: true }, make("b", { text: say("replay") }), play, speed, label, range, why);
      return { bar, play, label, range, speed, why };
    }

    function seek(at) {
      time = at;
      const now = Math.min(at, end);
      cards.forEach((one, place) => {
        const lane = tokens[place];
        let shown = 0;
        [...one.text.children].forEach((node, index) => {
          const there = lane[index].at <= at;
          if (there) shown++;
          node.classList.toggle("ahead", !there);
        });
        const last = lane.at(-1)?.at ?? 0;
        one.state.textContent = shown === lane.length ? say("at-end", { n: lane.length, s: last.toFixed(2) }) : say("so-far", { n: shown, all: lane.length });
        one.box.classList.toggle("arrived", shown === lane.length && at !== Infinity);
      });
      replay.range.value = now;
      replay.range.style.setProperty("--filled", `${end ? (100 * now) / end : 0}%`);
      replay.label.textContent = say("time-of", { t: now.toFixed(2), end: end.toFixed(2) });
      replay.range.setAttribute("aria-valuetext", replay.label.textContent);
    }

    function start() {
      if (!end) return;
      if (time >= end) seek(0);
      replay.play.textContent = say("pause");
      replay.play.setAttribute("aria-pressed", "true");
      let before = performance.now();
      const frame = (now) => {
        const next = time + ((now - before) / 1000) * Number(replay.speed.value);
        before = now;
        if (next >= end) return stop(), seek(Infinity);
        seek(next);
        playing = requestAnimationFrame(frame);
      };
      playing = requestAnimationFrame(frame);
    }

    function stop() {
      cancelAnimationFrame(playing);
      playing = null;
      replay.play.textContent = say("play");
      replay.play.setAttribute("aria-pressed", "false");
    }

    /* The comparison is in the address while its page is shown, so that reload and links bring it back. */
    function address(id) {
      const url = new URL(location.href);
      url.search = "";
      url.searchParams.set("view", "compare");
      url.searchParams.set("comparison", id);
      return url;
    }
    function keepAddress() {
      const url = new URL(location.href);
      const here = document.body.dataset.page === "compare";
      const wanted = here && head.kept && !head.live ? head.id : null;
      if (url.searchParams.get("comparison") === wanted) return;
      wanted ? url.searchParams.set("comparison", wanted) : url.searchParams.delete("comparison");
      history.replaceState(history.state, "", url);
    }

    watch("value", update);
    const asked = new URL(location.href).searchParams.get("comparison");
    if (asked) trigger("open", { comparison: asked });
    new MutationObserver(() => (asked && !head.id ? null : keepAddress())).observe(document.body, { attributes: true, attributeFilter: ["data-page"] });
    update();
  };

  /* What progress is measured against, as a row of choices; how much cheaper a draft is thought, as a slider. */
  P.kinds["versus-choice"] = (element, { props, trigger }) => {
    const choose = (value) => {
      props.value = String(value);
      if (P.state.comparison) trigger("choose", { comparison: P.state.comparison });
    };
    if (props.choice === "clock") {
      const radio = (clock) => make("label", {}, make("input", { type: "radio", name: "versus-clock", value: clock, checked: clock === props.value, onchange: () => choose(clock) }), make("span", { text: say(`clock-${clock}`) }));
      element.replaceChildren(make("fieldset", { class: "clock" }, make("legend", { text: say("clock") }), ...JSON.parse(props.clocks).map(radio)));
      return;
    }
    const faster = JSON.parse(props.faster);
    const label = make("output", {});
    const range = make("input", { type: "range", min: 0, max: faster.length - 1, step: 1, value: 0, id: "versus-cheaper", oninput: () => (paint(), choose(faster[range.value])) });
    function paint() {
      const k = faster[range.value];
      label.textContent = k === 1 ? say("cheaper-now") : say("cheaper-by", { k });
      range.setAttribute("aria-valuetext", label.textContent);
      range.style.setProperty("--filled", `${(100 * range.value) / (faster.length - 1)}%`);
    }
    element.replaceChildren(make("div", { class: "cheaper" }, make("label", { for: range.id, text: say("cheaper") }), range, label));
    paint();
  };

  /* Comparisons that this browser made before. */
  P.kinds["earlier-comparisons"] = (element, { props, trigger, watch }) => {
    const list = make("ul", {});
    const box = make("section", { class: "card earlier-comparisons", "aria-label": say("earlier"), hidden: true }, make("h2", { text: say("earlier") }), list);
    element.replaceChildren(box);
    const line = (one) => make("li", {}, make("a", { href: `?view=compare&comparison=${encodeURIComponent(one.id)}`, onclick: (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      trigger("open", { comparison: one.id });
      window.scrollTo(0, 0);
    } }, make("b", { text: one.titles.join(" · ") }), make("span", { class: "prompt", text: one.prompt, dir: "auto" })),
      make("small", { text: new Date(one.created).toLocaleString(P.language, { dateStyle: "medium", timeStyle: "short" }) }));
    function update() {
      const found = P.parse(props.value, []);
      list.replaceChildren(...found.map(line));
      box.hidden = !found.length;
    }
    watch("value", update);
    update();
  };
})();
