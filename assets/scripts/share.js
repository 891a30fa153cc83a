/* The share dialog of the run on the stage, and the notice of a link that opened the page. */
(() => {
  const P = window.Playground;
  const { make } = P;

  P.kinds.share = (element, { server }) => {
    const here = `${location.origin}${location.pathname}`;
    const spoken = make("p", { class: "spoken", role: "status" });
    const body = make("div", { class: "share-rows" });
    const closing = make("button", { type: "button", class: "quiet", text: P.say("share.close"), onclick: () => dialog.close() });
    const heading = make("h2", { id: "share-title", text: P.say("share.title") });
    const dialog = make("dialog", { class: "share", "aria-labelledby": "share-title" }, make("header", {}, heading, closing), body, spoken);
    const button = make("button", { type: "button", class: "share-open", text: P.say("share.button"), "aria-haspopup": "dialog", onclick: () => open() });
    element.replaceChildren(dialog);
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // on the backdrop
    const bar = () => element.closest(".stage")?.querySelector(".scrubber > :last-child") ?? null;
    const attach = () => (bar() ? bar().after(button) : setTimeout(attach, 30));
    attach();

    async function copy(field, what) {
      field.select();
      try {
        await navigator.clipboard.writeText(field.value);
      } catch {
        if (!document.execCommand("copy")) return void (spoken.textContent = P.say("share.not-copied"));
      }
      spoken.textContent = "";
      // A fresh node each time: a screen reader says the same sentence only once.
      spoken.append(make("span", { text: P.say("share.copied", { what }) }));
    }

    /* A link or code to copy; with a QR code where that makes sense. `value()` may change. */
    function row(name, value, { qr = true, lines = 1, extra = null } = {}) {
      const what = P.say(`share.${name}`);
      const field = make(lines > 1 ? "textarea" : "input", { class: "link", readonly: true, spellcheck: "false", "aria-label": what, ...(lines > 1 ? { rows: lines } : { type: "text" }) });
      field.addEventListener("focus", () => field.select());
      const picture = make("div", { class: "qr", hidden: true });
      const hide = () => ((picture.hidden = true), qrButton?.setAttribute("aria-expanded", "false"));
      const qrButton = !qr ? null : make("button", { type: "button", class: "quiet", text: P.say("share.qr"), "aria-label": `${P.say("share.qr")}: ${what}`, "aria-expanded": "false", onclick: () => (picture.hidden ? show() : hide()) });
      const copyButton = make("button", { type: "button", class: "solid", text: P.say("share.copy"), "aria-label": `${P.say("share.copy")}: ${what}`, onclick: () => copy(field, what) });

      async function show() {
        const answer = await server.qr({ link: field.value });
        qrButton.setAttribute("aria-expanded", "true");
        picture.hidden = false;
        if (answer.problem) return picture.replaceChildren(make("p", { text: P.say(answer.problem) }));
        const image = make("img", { src: answer.image, alt: P.say("share.qr-alt", { what }) });
        const size = make("button", { type: "button", class: "quiet", text: P.say("share.qr-large"), onclick: () => {
          const large = dialog.classList.toggle("large-qr");
          picture.classList.toggle("large", large);
          size.textContent = P.say(large ? "share.qr-small" : "share.qr-large");
          picture.scrollIntoView({ block: "center" });
        } });
        picture.replaceChildren(image, make("div", {}, make("p", { text: P.say("share.qr-scan") }), size));
        picture.scrollIntoView({ block: "nearest" });
      }

      const fill = () => ((field.value = value()), hide(), dialog.classList.remove("large-qr"));
      fill();
      const node = make("section", { class: "share-row", "data-row": name },
        make("h3", { text: what }), make("p", { class: "explains", text: P.say(`share.${name}-explains`) }), extra,
        make("div", { class: "share-line" }, field, copyButton, qrButton), picture);
      return { node, fill };
    }

    /* The link for a class, with the choice of projector mode and of a lesson. */
    function classRow(links) {
      const projector = make("input", { type: "checkbox", onchange: () => made.fill() });
      const lesson = make("select", { onchange: () => made.fill() }, make("option", { value: "", text: P.say("share.no-lesson") }), ...links.lessons.map((one) => make("option", { value: one.id, text: one.title })));
      const value = () => here + links.class + (projector.checked ? "&projector=1" : "") + (lesson.value ? `&view=learn&lesson=${encodeURIComponent(lesson.value)}` : "");
      const made = row("class", value, { extra: make("p", { class: "share-choices" },
        make("label", {}, projector, ` ${P.say("share.projector-choice")}`),
        links.lessons.length ? make("label", {}, `${P.say("share.lesson")} `, lesson) : null) });
      return made.node;
    }

    function frame(links) {
      const source = `${here}${links.embed}`.replaceAll("&", "&amp;").replaceAll('"', "&quot;");
      return `<iframe src="${source}" title="${P.say("share.embed-title")}" width="100%" height="640" style="border:0" loading="lazy"></iframe>`;
    }

    async function download(run, name) {
      const answer = await server.card({ run });
      if (answer.problem) return void (spoken.textContent = P.say(answer.problem));
      P.download(`run-card-${name.replace(/[^\w-]+/g, "_")}.json`, new Blob([answer.card], { type: "application/json" }));
    }

    async function open() {
      const run = button.closest(".scrubber")?.dataset.run ?? "";
      spoken.textContent = "";
      dialog.classList.remove("large-qr");
      body.replaceChildren(make("p", { class: "explains", text: P.say("share.loading") }));
      dialog.showModal();
      const links = await server.links({ run }).catch(() => ({ problem: P.say("shell.no-connection") }));
      if (links.problem) return body.replaceChildren(make("p", { class: "problem", text: P.say(links.problem) }));
      const trouble = links.setup_problem && make("p", { class: "problem", text: links.setup_problem });
      const card = make("section", { class: "share-row", "data-row": "card" }, make("h3", { text: P.say("share.card") }),
        make("p", { class: "explains", text: P.say("share.card-explains") }),
        make("div", { class: "share-line" }, make("button", { type: "button", class: "solid", text: P.say("share.download"), "aria-label": `${P.say("share.download")}: ${P.say("share.card")}`, onclick: () => download(run, links.name) })));
      const parts = [
        links.note && make("p", { class: "share-note", text: P.say(links.note) }),
        row("run", () => here + links.run).node,
        links.setup && row("setup", () => here + links.setup, { extra: links.given ? make("p", { class: "share-note", text: P.say("share.given-tokens", { n: links.given }) }) : null }).node,
        links.class && classRow(links),
        trouble,
        row("embed", () => frame(links), { qr: false, lines: 3 }).node,
        card,
      ];
      body.replaceChildren(...parts.filter(Boolean));
      body.scrollTop = 0;
      body.querySelector(".share-row .solid")?.focus({ preventScroll: true });
    }
  };

  /* Above the method: what the link asks. A class's prompt and seed are held until the reader makes them theirs. */
  P.kinds.notice = (element, { props, watch }) => {
    const box = make("section", { class: "card notice", role: "status", hidden: true });
    element.replaceChildren(box);
    let held = null;
    let met = false; // whether the prompt has arrived in its field

    const fields = () => [document.querySelector("#prompt textarea"), document.querySelector("#set-seed")].filter(Boolean);

    function hold() {
      const [prompt] = fields();
      if (held && prompt) {
        const same = prompt.value.replaceAll("\r\n", "\n") === held.prompt.replaceAll("\r\n", "\n");
        if (met && !same) return release(false); // another run was opened
        met ||= same;
      }
      for (const field of fields()) {
        if (field.readOnly === Boolean(held)) continue;
        field.readOnly = Boolean(held);
        held ? (field.title = P.say("share.held")) : field.removeAttribute("title");
      }
      document.documentElement.toggleAttribute("data-held", Boolean(held));
    }

    function release(said) {
      held = null;
      met = false;
      hold();
      const url = new URL(location.href);
      url.searchParams.delete("class");
      history.replaceState(history.state, "", url);
      said ? show({ notes: ["share.yours"] }) : (box.hidden = true);
      if (said) fields()[0]?.focus();
    }

    function show({ notes = [], tone = "calm", models = false, held = null }) {
      box.hidden = !notes.length;
      box.className = `card notice ${tone}`;
      const action = (key, act) => make("button", { type: "button", class: "quiet", text: P.say(key), onclick: act });
      const dismiss = () => {
        const url = new URL(location.href);
        url.searchParams.delete("setup");
        history.replaceState(history.state, "", url);
        box.hidden = true;
      };
      box.replaceChildren(...notes.map((note) => make("p", { text: P.say(note), dir: "auto" })),
        make("div", { class: "notice-actions" }, models ? action("share.choose-model", () => P.state.go("models")) : null, held ? action("share.make-yours", () => release(true)) : action("share.dismiss", dismiss)));
    }

    function update() {
      const value = P.parse(props.value, null);
      if (!value) return;
      held = value.held;
      met = false;
      show(value);
      hold();
      // The controls are built anew when a method is picked, and the prompt may arrive later than this notice.
      const rail = element.closest(".rail");
      if (held && rail && !rail.dataset.watched) {
        rail.dataset.watched = "1";
        new MutationObserver(() => held && setTimeout(hold, 150)).observe(rail, { childList: true, subtree: true });
      }
      if (held) for (const wait of [100, 500, 1500]) setTimeout(hold, wait);
    }
    watch("value", update);
    update();
  };
})();
