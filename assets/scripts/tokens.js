/* The text of a run, token by token: colour and underline say where a token came from, the popover says why. */
(() => {
  const P = window.Playground;
  const { make, percent } = P;
  const SPECIAL = /^<\|.*\|>$/;

  /* A token's text as the model sees it: newlines as ⏎ and a break, control characters and stray bytes boxed. */
  function spell(token, spaces = false) {
    const parts = [];
    if (token.hex) return [make("span", { class: "hex", text: token.hex })];
    let plain = "";
    const flush = () => plain && (parts.push(document.createTextNode(plain)), (plain = ""));
    for (const character of token.text) {
      const code = character.codePointAt(0);
      if (character === "\n") flush(), parts.push(make("span", { class: "newline", text: "⏎" })), spaces || parts.push(make("br"));
      else if (character === "\t") flush(), parts.push(make("span", { class: "newline", text: "⇥\u00a0" }));
      else if (code < 32 || (code >= 127 && code < 160) || (code >= 0x200b && code <= 0x200f && code !== 0x200d) || (code >= 0x202a && code <= 0x202e) || code === 0xfeff)
        flush(), parts.push(make("span", { class: "hex", text: code.toString(16).toUpperCase().padStart(2, "0") }));
      else if (character === " " && spaces) plain += "␣";
      else plain += character;
    }
    flush();
    return parts.length ? parts : [make("span", { class: "hex", text: P.say("play.empty-token") })];
  }
  P.spell = spell;

  P.kinds.tokens = (element, { props, trigger, watch }) => {
    let texts = []; // the JSON of each token on screen
    let tokens = [];
    let head = {};
    let open = null; // index of the token whose popover is open
    let pinned = false;

    const text = make("div", { class: "tokens", role: "group", "aria-label": P.say("play.tokens-label"), dir: "auto" });
    const pending = make("span", { class: "pending", "aria-hidden": "true" });
    const caret = make("span", { class: "caret", "aria-hidden": "true" });
    const legend = make("ul", { class: "legend", "aria-label": P.say("play.colours") });
    const popover = make("div", { class: "popover", role: "dialog", "aria-label": P.say("play.why"), hidden: true });
    const card = make("section", { class: "card stream", "aria-label": P.say("play.text") }, make("p", { class: "asked" }), text, legend, popover);
    const asked = card.querySelector(".asked");
    element.replaceChildren(card);

    function span(token, index) {
      const node = make("span", {
        class: `tok ${token.role}${SPECIAL.test(token.text) ? " special" : ""}`,
        tabindex: index === 0 ? "0" : "-1",
        "data-index": index,
      });
      node.append(...spell(token));
      return node;
    }

    function update() {
      const value = props.value || {};
      head = P.parse(value.head, {});
      const next = value.tokens ?? [];
      let first = 0;
      while (first < next.length && first < texts.length && next[first] === texts[first]) first++;
      if (head.run !== update.run) (first = 0), close();
      update.run = head.run;
      while (text.children.length && tokens.length > first) text.children[--tokens.length].remove();
      for (let index = first; index < next.length; index++) {
        tokens[index] = JSON.parse(next[index]);
        const node = span(tokens[index], index);
        if (head.live) node.classList.add("fresh");
        text.insertBefore(node, text.children[index] ?? null);
      }
      texts = next.slice();
      pending.replaceChildren(
        ...(head.pending ?? []).map((token) => {
          const node = make("span", { class: `tok ${token.role}` });
          node.append(...spell(token, true));
          return node;
        }),
      );
      text.append(pending, caret);
      caret.hidden = !head.live;
      card.classList.toggle("nothing", !tokens.length && !head.live);
      asked.replaceChildren(make("span", { class: "asked-label", text: head.title ?? "" }), make("span", { class: "asked-prompt", text: head.prompt ?? "" }));
      asked.hidden = !head.prompt;
      legend.replaceChildren(...(head.legend ?? []).map(({ role, label, mark }) => make("li", {}, make("i", { class: `swatch ${role}` }), `${P.translated(`roles.${role}`, label)} ${mark ?? ""}`.trim())));
      if (open !== null && open >= tokens.length) close();
    }

    function row(alternative, token, filtered) {
      const chosen = alternative.id === token.id;
      const label = make("span", { class: "alt-token" });
      label.append(...spell(alternative, true));
      const cells = [
        label,
        make("span", { class: "bar" }, make("i", { style: `width:${Math.round(100 * (alternative.raw ?? alternative.final ?? 0))}%` })),
        make("span", { class: "num", text: percent(alternative.raw) }),
        ...(filtered ? [make("span", { class: "num", text: percent(alternative.final) })] : []),
      ];
      if (!chosen && P.frozen) return make("div", { class: "alt" }, ...cells);
      if (chosen) return make("div", { class: "alt chosen", "aria-label": P.say("play.chosen-alternative", { p: percent(alternative.raw) }) }, ...cells);
      return make("button", {
        type: "button", class: "alt", title: P.say("play.continue-with", { method: P.state.method ?? P.say("play.selected-method") }),
        onclick: () => (trigger("branch", { run: head.run, position: token.position, token: alternative.id, ...P.state.along }), close()),
      }, ...cells);
    }

    function show(index, pin) {
      const token = tokens[index];
      const node = text.children[index];
      if (!token || !node) return;
      open = index;
      pinned = pin;
      for (const other of text.querySelectorAll(".tok.open")) other.classList.remove("open");
      node.classList.add("open");
      const title = make("div", { class: "pop-title" });
      title.append(make("span", { class: `alt-token tok ${token.role}` }, ...spell(token, true)), make("span", { text: ` ${P.translated(`roles.${token.role}`, (head.legend ?? []).find((one) => one.role === token.role)?.label ?? token.origin)} ${token.mark ?? ""}` }));
      const facts = [P.say("play.token-facts", { id: token.id, place: token.position + 1, step: token.step + 1 })];
      if (token.rank !== null && token.rank !== undefined) facts.push(token.rank === 0 ? P.say("play.first-choice") : P.say("play.choice-number", { n: token.rank + 1 }));
      if (token.raw !== null && token.raw !== undefined) facts.push(P.say("play.model-p", { p: percent(token.raw) }));
      if (token.final !== null && token.final !== undefined) facts.push(P.say("play.filters-p", { p: percent(token.final) }));
      if (token.entropy !== null && token.entropy !== undefined) facts.push(P.say("play.entropy", { h: token.entropy.toFixed(2) }));
      const alternatives = token.alternatives ?? [];
      const filtered = alternatives.some((one) => one.final !== null && one.final !== undefined);
      const table = alternatives.length
        ? [make("div", { class: "alt alt-head" }, make("span", { text: P.frozen ? "" : P.say("play.click-one") }), make("span", { class: "num", text: P.say("play.column-model") }), filtered && make("span", { class: "num", text: P.say("play.column-filters") })), ...alternatives.map((one) => row(one, token, filtered))]
        : [make("p", { class: "facts", text: P.say("play.no-alternatives") })];
      popover.replaceChildren(title, make("p", { class: "facts", text: facts.join(" · ") }), make("div", { class: filtered ? "alts" : "alts plain" }, ...table), make("button", { type: "button", class: "step-link", text: P.say("play.show-step", { n: token.step + 1 }), onclick: () => (P.state.goTo?.(token.step, card), close()) }), !P.frozen && P.state.why && head.run && !head.live ? make("button", { type: "button", class: "step-link why-link", text: P.say("circuits.why-token"), onclick: () => (close(), P.state.why({ run: head.run, position: token.position })) }) : "");
      popover.hidden = false;
      const area = card.getBoundingClientRect();
      const place = node.getClientRects()[0] ?? node.getBoundingClientRect();
      const zoom = card.currentCSSZoom ?? 1; // projector mode
      const left = Math.min(Math.max((place.left - area.left) / zoom, 8), Math.max(8, area.width / zoom - popover.offsetWidth - 8));
      popover.style.left = `${left}px`;
      popover.style.top = `${(place.bottom - area.top) / zoom + 4}px`;
    }

    function close() {
      open = null;
      pinned = false;
      popover.hidden = true;
      for (const other of text.querySelectorAll(".tok.open")) other.classList.remove("open");
    }

    const indexOf = (node) => {
      const hit = node.closest?.(".tok[data-index]");
      return hit && text.contains(hit) ? Number(hit.dataset.index) : null;
    };
    let timer = null;
    text.addEventListener("pointerover", (event) => {
      const index = indexOf(event.target);
      clearTimeout(timer);
      if (index !== null && event.pointerType === "mouse" && !pinned) timer = setTimeout(() => show(index, false), 120);
    });
    card.addEventListener("pointerleave", (event) => {
      clearTimeout(timer);
      if (!pinned && event.pointerType === "mouse") close();
    });
    text.addEventListener("click", (event) => {
      const index = indexOf(event.target);
      if (index === null) return close();
      clearTimeout(timer);
      pinned && open === index ? close() : show(index, true);
      focus(index);
    });
    function focus(index) {
      const node = text.children[index];
      if (!node?.dataset.index) return;
      for (const other of text.querySelectorAll('.tok[tabindex="0"]')) other.tabIndex = -1;
      node.tabIndex = 0;
      node.focus({ preventScroll: false });
    }
    text.addEventListener("keydown", (event) => {
      const index = indexOf(event.target);
      if (index === null) return;
      const move = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tokens.length - 1 }[event.key];
      if (move !== undefined && tokens[move]) focus(move), show(move, false);
      else if (event.key === "Enter" || event.key === " ") show(index, true), popover.querySelector("button.alt")?.focus();
      else if (event.key === "Escape") close();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    text.addEventListener("focusin", (event) => {
      const index = indexOf(event.target);
      if (index !== null && event.target.matches(":focus-visible") && open !== index) show(index, false);
    });
    popover.addEventListener("keydown", (event) => {
      const rows = [...popover.querySelectorAll("button")];
      const at = rows.indexOf(document.activeElement);
      if (event.key === "ArrowDown") rows[(at + 1) % rows.length]?.focus();
      else if (event.key === "ArrowUp") rows[(at - 1 + rows.length) % rows.length]?.focus();
      else if (event.key === "Escape") {
        const back = open;
        close();
        if (back !== null) focus(back);
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!card.contains(event.target)) close();
    });

    watch("value", update);
    update();
  };
})();
