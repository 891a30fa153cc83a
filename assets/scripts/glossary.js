/* The words of the field: linked wherever they appear, and listed on the Learn page.
   `P.gloss(node)` marks the first occurrence of each word in the text below a node; `P.glossText(node, text)` sets a
   node's text and marks it, when it is a new text. */
(() => {
  const P = window.Playground;
  const { make } = P;
  let entries = new Map(); // every form, in lower case, with its word
  let pattern = null;
  const waiting = new Set(); // marked as soon as the words are there
  const SKIPPED = "a, button, code, input, .term, .alt-token, .tok";

  P.gloss = (node) => {
    if (!pattern) return waiting.add(node), node;
    const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walker.nextNode()) if (!walker.currentNode.parentElement.closest(SKIPPED)) texts.push(walker.currentNode);
    const done = new Set();
    for (const text of texts) {
      const parts = [];
      let from = 0;
      for (const found of text.data.matchAll(pattern)) {
        const word = entries.get(found[0].toLowerCase());
        if (done.has(word)) continue;
        done.add(word);
        parts.push(text.data.slice(from, found.index), make("span", { class: "term", role: "button", tabindex: "0", "aria-expanded": "false", "data-word": word.word, text: found[0] }));
        from = found.index + found[0].length;
      }
      if (parts.length) text.replaceWith(...parts, text.data.slice(from));
    }
    return node;
  };

  P.glossText = (node, text) => {
    if (node.glossed === text) return;
    node.glossed = text;
    node.textContent = text;
    P.gloss(node);
  };

  /* One bubble for all words: it opens on hover, focus and tap, stays while the pointer is on it, closes with Escape. */
  const tip = make("div", { class: "term-tip", id: "term-tip", role: "tooltip", hidden: true });
  let anchor = null;
  let timer = null;
  let alive = null;

  const key = (word) => `glossary.${word.word.toLowerCase().replaceAll(" ", "-")}`;
  const meaning = (word) => P.translated(`${key(word)}.means`, word.means);

  function open(term) {
    const word = entries.get(term.dataset.word.toLowerCase());
    if (!word || anchor === term) return;
    close();
    anchor = term;
    tip.replaceChildren(make("b", { text: word.word }), make("p", { text: meaning(word) }), word.source ? make("small", { text: word.source }) : "");
    if (!tip.isConnected) (document.querySelector(".gradio-container") ?? document.body).append(tip);
    tip.hidden = false;
    term.setAttribute("aria-expanded", "true");
    term.setAttribute("aria-describedby", tip.id);
    place();
    alive = setInterval(() => (anchor?.isConnected && anchor.offsetParent ? null : close()), 300);
  }

  function place() {
    const box = anchor.getClientRects()[0] ?? anchor.getBoundingClientRect();
    const left = Math.min(Math.max(box.left, 8), document.documentElement.clientWidth - tip.offsetWidth - 8);
    const below = box.bottom + 6 + tip.offsetHeight <= innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? box.bottom + 6 : Math.max(8, box.top - 6 - tip.offsetHeight)}px`;
  }

  function close() {
    clearTimeout(timer);
    clearInterval(alive);
    anchor?.setAttribute("aria-expanded", "false");
    anchor?.removeAttribute("aria-describedby");
    anchor = null;
    tip.hidden = true;
  }

  const termOf = (event) => event.target.closest?.(".term");
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const term = termOf(event);
    clearTimeout(timer);
    if (term) timer = setTimeout(() => open(term), anchor ? 0 : 180);
    else if (anchor && !tip.contains(event.target)) timer = setTimeout(() => document.activeElement === anchor || close(), 220);
  });
  document.addEventListener("focusin", (event) => {
    const term = termOf(event);
    term?.matches(":focus-visible") ? open(term) : anchor && !term && close();
  });
  document.addEventListener("click", (event) => {
    const term = termOf(event);
    if (!term) return tip.contains(event.target) || close();
    anchor === term && event.pointerType !== "mouse" ? close() : open(term);
  });
  document.addEventListener("keydown", (event) => {
    const term = termOf(event);
    if (event.key === "Escape" && anchor) close();
    else if (term && (event.key === "Enter" || event.key === " ")) anchor === term ? close() : open(term);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }, true);
  addEventListener("scroll", () => anchor && place(), { capture: true, passive: true });
  addEventListener("resize", close);

  P.kinds.glossary = (element, { props }) => {
    const words = P.parse(props.value, []);
    for (const word of words) for (const form of [word.word, ...(word.also ?? [])]) entries.set(form.toLowerCase(), word);
    const forms = [...entries.keys()].sort((a, b) => b.length - a.length).map((form) => form.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replaceAll(" ", "\\s+"));
    if (forms.length) pattern = new RegExp(`(?<![\\p{L}\\p{N}-])(?:${forms.join("|")})(?![\\p{L}\\p{N}-])`, "giu");

    const search = make("input", { type: "search", id: "glossary-search", placeholder: P.say("learn.find-word"), "aria-label": P.say("learn.find-word"), autocomplete: "off", spellcheck: "false", oninput: () => list() });
    const count = make("p", { class: "explains", role: "status" });
    const found = make("dl");
    element.replaceChildren(make("section", { class: "card glossary", "aria-labelledby": "glossary-title" }, make("h2", { id: "glossary-title", text: P.say("learn.glossary") }), make("p", { class: "explains", text: P.say("learn.glossary-explains") }), search, count, found));

    const rows = words.map((word) => [
      [word.word, ...(word.also ?? []), meaning(word)].join(" ").toLowerCase(),
      make("div", { "data-word": word.word }, make("dt", { text: word.word }), make("dd", {}, meaning(word), word.source ? make("small", { text: ` ${word.source}` }) : "")),
    ]);
    function list() {
      const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const hits = rows.filter(([text]) => wanted.every((part) => text.includes(part))).map(([, row]) => row);
      found.replaceChildren(...hits);
      count.textContent = hits.length ? "" : P.say("learn.no-word");
    }
    list();
    for (const node of waiting) P.gloss(node);
    waiting.clear();
  };
})();
