/* Back and forth through a run, one step at a time. The server draws the step that was asked for. */
(() => {
  const P = window.Playground;
  const { make } = P;

  P.kinds.scrubber = (element, { props, trigger, watch }) => {
    let state = { run: "", step: 0, steps: 0, live: false };
    let wanted = null; // the step asked for while the server still draws another
    let timer = null;

    const back = make("button", { type: "button", class: "icon", "aria-label": P.say("play.step-back"), title: `${P.say("play.step-back")} (←)`, text: "◀", onclick: () => (pause(), go(state.step - 1)) });
    const forth = make("button", { type: "button", class: "icon", "aria-label": P.say("play.step-on"), title: `${P.say("play.step-on")} (→)`, text: "▶", onclick: () => (pause(), go(state.step + 1)) });
    const play = make("button", { type: "button", class: "play", text: P.say("play.play"), "aria-pressed": "false", onclick: () => (timer ? pause() : start()) });
    const label = make("span", { class: "step-label", "aria-live": "off" });
    const range = make("input", { type: "range", min: 0, max: 0, step: 1, "aria-label": P.say("play.step"), oninput: () => (pause(), go(Number(range.value))) });
    const status = make("span", { class: "status" });
    const bar = make("section", { class: "card scrubber", "aria-label": P.say("play.steps") }, make("span", { class: "pair" }, back, forth), play, label, range, status);
    element.replaceChildren(bar);

    function paint() {
      label.textContent = state.steps ? P.say("play.step-of", { step: state.step, steps: state.steps }) : P.say("play.no-steps");
      range.max = state.steps;
      range.value = state.step;
      range.style.setProperty("--filled", `${state.steps ? (100 * state.step) / state.steps : 0}%`);
      range.setAttribute("aria-valuetext", label.textContent);
      back.disabled = state.live || state.step <= 0;
      forth.disabled = state.live || state.step >= state.steps;
      range.disabled = play.disabled = state.live || !state.steps;
      status.textContent = P.translated(`status.${(state.status ?? "").replaceAll(" ", "-")}`, state.status ?? "");
      status.classList.toggle("live", Boolean(state.live));
      bar.classList.toggle("live", Boolean(state.live));
    }

    function go(step) {
      if (state.live || !state.steps) return;
      step = Math.max(0, Math.min(state.steps, step));
      if (step === state.step) return;
      state = { ...state, step };
      paint();
      if (wanted === null) trigger("step", { run: state.run, step, page: P.page, ...P.state.along });
      wanted = step;
    }

    function start() {
      if (state.live || !state.steps) return;
      if (state.step >= state.steps) go(0);
      play.textContent = P.say("play.pause");
      play.setAttribute("aria-pressed", "true");
      const pace = Math.max(140, Math.min(900, 14000 / state.steps));
      timer = setInterval(() => {
        if (wanted !== null) return;
        state.step >= state.steps ? pause() : go(state.step + 1);
      }, pace);
    }

    function pause() {
      clearInterval(timer);
      timer = null;
      play.textContent = P.say("play.play");
      play.setAttribute("aria-pressed", "false");
    }

    function update() {
      const value = P.parse(props.value, null);
      if (!value) return;
      if (value.run !== state.run || value.live) pause(), (wanted = null);
      if (wanted !== null && value.step !== wanted) {
        trigger("step", { run: state.run, step: wanted, page: P.page, ...P.state.along });
        return;
      }
      wanted = null;
      if (state.live !== value.live) P.state.ask?.();
      state = value;
      bar.dataset.run = state.run;
      paint();
      if (value.keep) P.address(value.run);
      // Other parts of this page follow: the code beside the pictures, a lesson.
      bar.dispatchEvent(new CustomEvent("playground:step", { bubbles: true, detail: { run: state.run, step: state.step, live: Boolean(state.live) } }));
    }

    document.addEventListener("keydown", (event) => {
      if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.target.closest?.("input, textarea, select, [role=combobox], [role=listbox], [contenteditable], .tok, .popover, dialog")) return;
      if (!bar.offsetParent) return;
      const step = { ArrowLeft: state.step - 1, ArrowRight: state.step + 1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      pause();
      go(step);
    });
    // Several pages have a scrubber: a token means the one of its own page.
    (P.state.scrubbers ??= []).push([bar, (commit) => go((state.commits ?? [])[commit] ?? state.step)]);
    P.state.goTo = (commit, node) => P.state.scrubbers.forEach(([other, show]) => other.closest(".page") === node.closest(".page") && show(commit));
    watch("value", update);
    update();
  };

  /* The five headline numbers, each with its definition under it. */
  P.kinds.numbers = (element, { props, watch }) => {
    const list = make("dl", { class: "card numbers", "aria-label": P.say("play.numbers") });
    element.replaceChildren(list);
    function update() {
      const numbers = P.parse(props.value, []);
      while (list.children.length > numbers.length) list.lastChild.remove();
      numbers.forEach(({ value, meaning, title }, index) => {
        const box = list.children[index] ?? list.appendChild(make("div", {}, make("dd"), make("dt")));
        box.title = P.say(title);
        box.firstChild.textContent = value;
        P.glossText(box.lastChild, P.say(meaning));
      });
    }
    watch("value", update);
    update();
  };
})();
