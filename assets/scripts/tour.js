/* The guided first minute on the Play page: a few marks that stand beside what they explain and block nothing. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const SEEN = "playground-tour";
  const STOPS = [
    ["text", () => fitting(".page-play .live-tokens .stream", ".page-play .stream .legend")],
    ["token", () => document.querySelector(".page-play .tok[data-index='4']") ?? document.querySelector(".page-play .tok[data-index]")],
    ["steps", () => document.querySelector(".page-play .scrubber")],
    ["pictures", () => highest(".page-play .live-plot.block:not(.irrelevant) .picture")],
    ["run", () => document.querySelector(".page-play #method .chosen")],
    ["next", () => document.querySelector("header.shell nav a[data-page='learn']")],
  ];
  let at = -1;
  let target = null;
  let card = null;

  /* The first of these elements that leaves room for the mark; the last one when none does. */
  function fitting(...selectors) {
    const found = selectors.map((one) => document.querySelector(one)).filter(Boolean);
    return found.find((one) => one.offsetHeight < 0.5 * innerHeight) ?? found.at(-1);
  }

  /* The first picture that one sees: their order on the page is the style sheet's. */
  function highest(selector) {
    const top = (node) => node.getBoundingClientRect().top;
    const [first] = [...document.querySelectorAll(selector)].sort((a, b) => top(a) - top(b));
    return first?.offsetHeight < 0.5 * innerHeight ? first : first?.querySelector("header");
  }

  function place() {
    if (!card || !target) return;
    const box = target.getBoundingClientRect();
    const [wide, high] = [card.offsetWidth, card.offsetHeight];
    const [room, gap, edge] = [document.documentElement.clientWidth, 12, 8];
    const within = (value, most) => Math.min(Math.max(value, edge), Math.max(edge, most));
    const top = document.querySelector("header.shell")?.getBoundingClientRect().bottom ?? 0;
    let left = within(box.left, room - wide - edge);
    let y;
    if (box.bottom + gap + high + edge <= innerHeight) y = box.bottom + gap;
    else if (box.top - gap - high >= (target.closest("header.shell") ? 0 : top)) y = box.top - gap - high;
    else {
      y = within(box.top, innerHeight - high - edge);
      left = box.right + gap + wide <= room ? box.right + gap : Math.max(edge, box.left - gap - wide);
    }
    card.style.left = `${left}px`;
    card.style.top = `${y}px`;
  }

  function show(index) {
    target?.classList.remove("tour-target");
    while (index < STOPS.length && !(target = STOPS[index][1]())) index++;
    if (index >= STOPS.length) return end();
    at = index;
    const [name] = STOPS[at];
    const last = at === STOPS.length - 1;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    target.classList.add("tour-target");
    target.scrollIntoView({ block: "center", inline: "nearest", behavior: calm ? "auto" : "smooth" });
    card.replaceChildren(
      make("h2", { id: "tour-title", text: P.say(`learn.tour-${name}-title`) }),
      make("p", { text: P.say(`learn.tour-${name}`) }),
      make("div", { class: "tour-tools" },
        make("button", { type: "button", class: "plain", text: P.say("learn.tour-skip"), onclick: end, hidden: last }),
        make("span", { class: "tour-place", text: `${at + 1} / ${STOPS.length}` }),
        make("button", { type: "button", class: "plain", text: P.say("learn.back"), disabled: at === 0, onclick: () => show(at - 1) }),
        make("button", { type: "button", class: "next", text: P.say(last ? "learn.tour-end" : "learn.next"), onclick: () => (last ? end() : show(at + 1)) })),
    );
    card.focus({ preventScroll: true });
    place();
    const began = performance.now();
    const settle = () => (place(), card && performance.now() - began < 900 && requestAnimationFrame(settle));
    settle();
  }

  function end() {
    target?.classList.remove("tour-target");
    card?.remove();
    card = target = null;
    at = -1;
    remember();
  }

  function remember() {
    try {
      localStorage.setItem(SEEN, "seen");
    } catch {
      // It will be offered again.
    }
  }

  /* Starts the tour, on the Play page. */
  P.tour = () => {
    if (card) return;
    if (document.body.dataset.page !== "play") P.state.go("play");
    card = make("aside", { class: "tour card", role: "dialog", "aria-modal": "false", "aria-labelledby": "tour-title", tabindex: "-1" });
    (document.querySelector(".gradio-container") ?? document.body).append(card);
    show(0);
  };

  addEventListener("scroll", place, { capture: true, passive: true });
  addEventListener("resize", place);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !card || event.defaultPrevented) return;
    if (document.querySelector(".popover:not([hidden]), .picker-pop:not([hidden]), .picture.expanded")) return;
    end();
  });
  new MutationObserver(() => card && document.body.dataset.page !== "play" && end()).observe(document.documentElement, { subtree: true, attributes: true, attributeFilter: ["data-page"] });

  /* Offered once, to people who came to look around: not to who follows a link to something, nor to an automaton. */
  function offered() {
    const asked = new URL(location.href).searchParams;
    if (asked.get("tour") === "1") return true;
    const named = [...asked.keys()].some((name) => !["__theme", "lang", "tour"].includes(name));
    return !navigator.webdriver && !named && location.hash.length < 2 && localStorage.getItem(SEEN) === null;
  }
  if (offered()) {
    let left = 100;
    const wait = setInterval(() => {
      if (!--left || document.body?.dataset.page === "models") clearInterval(wait);
      else if (document.body?.dataset.page === "play" && document.querySelector(".page-play .tok[data-index]") && document.querySelector(".page-play .picture .plot-container")) clearInterval(wait), setTimeout(P.tour, 400);
    }, 200);
  }
})();
