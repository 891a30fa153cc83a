/* Lessons: a list, or one step of a lesson with its question; the components beside it are those of the Play page.
   Which lesson and step are shown stands in the address; what was predicted is kept by this browser alone. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const KEPT = "playground-lessons";

  /* A lesson's text: nodes are strings, or {tag, children, lesson}. */
  function build(nodes, follow) {
    return nodes.map((node) => {
      if (typeof node === "string") return document.createTextNode(node);
      const link = node.tag === "a" ? { href: `?view=learn&lesson=${encodeURIComponent(node.lesson)}`, onclick: (event) => follow(event, node.lesson) } : {};
      return make(node.tag, link, ...build(node.children, follow));
    });
  }

  P.kinds.lessons = (element, { props, trigger, server }) => {
    const lessons = P.parse(props.value, []);
    const page = element.closest(".page");
    let open = null; // the lesson on screen
    let at = 0; // its step
    let stage = { run: "", live: false }; // what the scrubber beside it shows

    const given = () => P.parse(localStorage.getItem(KEPT), {});
    const keep = (change) => {
      const all = given();
      change(all);
      try {
        localStorage.setItem(KEPT, JSON.stringify(all));
      } catch {
        // A browser that keeps nothing still shows lessons.
      }
    };
    const answerTo = (lesson, step) => given()[lesson.id]?.[step];
    const questions = (lesson) => lesson.steps.filter((step) => step.ask).length;
    const right = (lesson) => Object.values(given()[lesson.id] ?? {}).filter((one) => one.right).length;

    /* Where one is, from the address and back into it. */
    function read() {
      const asked = new URL(location.href).searchParams;
      const lesson = lessons.find((one) => one.id === asked.get("lesson")) ?? null;
      const step = lesson ? Math.min(Math.max(Number(asked.get("at") ?? 1) - 1 || 0, 0), lesson.steps.length - 1) : 0;
      if (lesson === open && step === at && element.firstChild) return;
      show(lesson, step);
    }

    function go(lesson, step = 0) {
      const url = new URL(location.href);
      url.searchParams.set("view", "learn");
      url.searchParams.delete("run");
      lesson ? url.searchParams.set("lesson", lesson.id) : url.searchParams.delete("lesson");
      lesson && step ? url.searchParams.set("at", step + 1) : url.searchParams.delete("at");
      history.pushState({ page: "learn" }, "", url);
      show(lesson, step);
      scrollTo(0, 0);
      element.querySelector(".lesson-heading")?.focus({ preventScroll: true });
    }

    const plain = (event) => !(event.metaKey || event.ctrlKey || event.shiftKey);
    function follow(event, id) {
      if (!plain(event)) return;
      event.preventDefault();
      go(lessons.find((one) => one.id === id) ?? null);
    }

    function show(lesson, step) {
      if (stage.live) trigger("halt", {});
      open = lesson;
      at = step;
      page.classList.toggle("reading", Boolean(lesson));
      lesson ? paint() : list();
    }

    function list() {
      const cards = lessons.map((lesson) => {
        const asked = questions(lesson);
        const done = Object.keys(given()[lesson.id] ?? {}).length;
        const facts = [P.say(lesson.family).split(":")[0], P.say("learn.minutes", { minutes: lesson.minutes }), done ? P.say("learn.score", { right: right(lesson), asked }) : P.say("learn.questions", { asked })];
        return make("li", {}, make("a", { class: "lesson-card card", "data-lesson": lesson.id, href: `?view=learn&lesson=${encodeURIComponent(lesson.id)}`, onclick: (event) => follow(event, lesson.id) },
          make("b", { text: lesson.title }), make("span", { text: lesson.about }), make("small", { text: facts.join(" · ") })));
      });
      const tour = make("button", { type: "button", class: "plain", text: P.say("learn.start-tour"), onclick: () => P.tour?.() });
      element.replaceChildren(make("section", { class: "lesson-list" },
        make("h2", { text: P.say("learn.heading") }), make("p", { class: "explains" }, P.say("learn.explains"), " ", tour),
        cards.length ? make("ul", {}, ...cards) : make("p", { text: P.say("learn.no-lessons") })));
    }

    function paint() {
      const step = open.steps[at];
      const answered = answerTo(open, at);
      const waits = Boolean(step.ask && !answered);
      page.classList.toggle("predicting", waits);
      page.classList.toggle("blank", !step.shown);
      page.classList.toggle("with-numbers", step.numbers);
      P.state.along = { picture: step.picture };

      const heading = make("h3", { class: "lesson-heading", tabindex: "-1", text: step.title });
      const body = make("div", { class: "lesson-body" }, ...build(step.body, follow));
      P.gloss(body);
      const nav = make("nav", { class: "lesson-nav", "aria-label": P.say("learn.steps") },
        make("button", { type: "button", class: "plain", disabled: at === 0, text: P.say("learn.back"), onclick: () => go(open, at - 1) }),
        make("span", { class: "lesson-place", text: P.say("learn.step-of", { step: at + 1, steps: open.steps.length }) }),
        at + 1 < open.steps.length
          ? make("button", { type: "button", class: "next", text: P.say("learn.next"), onclick: () => go(open, at + 1) })
          : make("button", { type: "button", class: "next", text: P.say("learn.done"), onclick: () => go(null) }));
      element.replaceChildren(make("article", { class: "card lesson", "data-lesson": open.id },
        make("header", {}, make("a", { href: "?view=learn", text: P.say("learn.all-lessons"), onclick: (event) => follow(event, "") }), make("h2", { text: open.title })),
        make("progress", { max: open.steps.length, value: at + 1, "aria-label": P.say("learn.step-of", { step: at + 1, steps: open.steps.length }) }),
        heading, body, step.ask && question(step, answered), step.try && trial(step), nav));
      if (step.shown) trigger("show", { lesson: open.id, step: at, answered: !waits });
    }

    /* A question: buttons when there are options, else a number. Answered once, it says what was true and why. */
    function question(step, answered) {
      const { ask } = step;
      const result = make("div", { class: "lesson-result", role: "status" });
      const send = async (value) => {
        const lesson = open;
        const index = at;
        const verdict = await server.check({ lesson: lesson.id, step: index, given: value });
        if (verdict.problem) return void (result.textContent = verdict.problem);
        if (!answered) {
          keep((all) => ((all[lesson.id] ??= {})[index] = { given: value, right: verdict.right }));
          page.classList.remove("predicting");
          if (open === lesson && at === index) trigger("show", { lesson: lesson.id, step: index, answered: true });
        }
        reveal(value, verdict);
      };
      const buttons = (ask.options ?? []).map((option) => make("button", { type: "button", class: "answer", "data-answer": option, text: option, onclick: () => send(option) }));
      const number = make("input", { type: "text", inputmode: "decimal", class: "answer-number", "aria-label": ask.question, autocomplete: "off" });
      const form = make("form", { class: "answer-form", onsubmit: (event) => (event.preventDefault(), number.value.trim() && send(number.value.trim())) },
        number, ask.unit ? make("span", { text: ask.unit }) : null, make("button", { type: "submit", class: "answer", text: P.say("learn.check") }));
      const box = make("section", { class: "lesson-ask", "aria-label": P.say("learn.predict") },
        make("p", { class: "lesson-predict", text: P.say("learn.predict") }), make("p", { class: "lesson-question", text: ask.question }),
        buttons.length ? make("div", { class: "answers" }, ...buttons) : form, result);

      function reveal(value, verdict) {
        for (const button of buttons) {
          const mine = button.dataset.answer === value;
          const true_ = button.dataset.answer === verdict.answer;
          button.disabled = true;
          button.classList.toggle("right", true_);
          button.classList.toggle("wrong", mine && !true_);
          button.textContent = `${button.dataset.answer}${true_ ? " ✓" : mine ? " ✕" : ""}`;
        }
        number.value = value;
        number.disabled = form.lastChild.disabled = true;
        const said = make("b", { text: P.say(verdict.right ? "learn.right" : "learn.not-quite", { answer: verdict.answer }) });
        const why = make("p", {}, said, " ", ...build(verdict.because, follow));
        result.className = `lesson-result ${verdict.right ? "right" : "wrong"}`;
        result.replaceChildren(P.gloss(why), make("button", { type: "button", class: "plain", text: P.say("learn.ask-again"), onclick: () => {
          keep((all) => delete all[open.id]?.[at]);
          paint();
          element.querySelector(".answer, .answer-number")?.focus();
        } }));
      }
      if (answered) send(answered.given);
      return box;
    }

    /* A run of one's own, with a few knobs. */
    function trial(step) {
      const values = {};
      const knobs = step.try.knobs.map((knob) => {
        const id = `lesson-${knob.name}`;
        values[knob.name] = knob.value;
        const said = make("output", { for: id, text: knob.value });
        const span = knob.high - knob.low;
        const range = make("input", { type: "range", id, min: knob.low, max: knob.high, step: knob.whole ? 1 : Number((span / 100).toPrecision(1)), value: knob.value, oninput: () => {
          values[knob.name] = Number(range.value);
          said.textContent = range.value;
          fill();
        } });
        const fill = () => range.style.setProperty("--filled", `${(100 * (range.value - knob.low)) / span}%`);
        fill();
        return make("div", { class: "knob", title: P.say(knob.help) }, make("label", { for: id, text: knob.name.replaceAll("_", " ") }), said, range);
      });
      const run = make("button", { type: "button", class: "next run-here", text: P.say("learn.run-here"), onclick: () => {
        if (stage.live) return trigger("halt", {});
        page.classList.remove("blank");
        trigger("run", { lesson: open.id, step: at, values });
      } });
      const take = make("button", { type: "button", class: "plain open-in-play", text: P.say("learn.open-in-play"), hidden: true, onclick: () => {
        P.state.go("play");
        trigger("open", { run: stage.run });
      } });
      return make("section", { class: "lesson-try", "aria-label": P.say("learn.try") }, make("blockquote", { text: step.try.prompt, dir: "auto" }), ...knobs, make("div", { class: "lesson-actions" }, run, take));
    }

    page.addEventListener("playground:step", ({ detail }) => {
      stage = detail;
      const run = element.querySelector(".run-here");
      if (!run) return;
      run.textContent = P.say(detail.live ? "learn.stop" : "learn.run-here");
      const mine = detail.run && !detail.run.startsWith("recorded-");
      element.querySelector(".open-in-play").hidden = detail.live || !mine;
    });
    /* The newest row of a long list of places is at its end: that is what a lesson speaks of. */
    new MutationObserver(([change]) => {
      const panel = change.target.closest(".picture");
      if (panel?.dataset.picture !== "confidence") return;
      const [canvas, box] = [panel.querySelector(".canvas"), panel.querySelector(".canvas-box")];
      const newest = Math.max(...(canvas.data ?? []).flatMap((trace) => [...(trace.y ?? [])]).filter(Number.isFinite));
      const axis = canvas._fullLayout?.yaxis;
      if (axis && Number.isFinite(newest)) box.scrollTop = axis._offset + axis.c2p(newest) + 30 - box.clientHeight;
    }).observe(page, { subtree: true, attributes: true, attributeFilter: ["data-updates"] });
    new MutationObserver(() => document.body.dataset.page === "learn" && read()).observe(document.body, { attributes: true, attributeFilter: ["data-page"] });
    document.body.dataset.page === "learn" ? read() : list();
  };
})();
