/* The proof strip: asks what is known of the run that is shown, and has a run checked that has just ended. */
(() => {
  const P = window.Playground;
  const { make } = P;

  P.kinds.proof = (element, { props, trigger, watch, server }) => {
    let run = null; // the run that is shown
    let live = false;
    let open = false;

    const mark = make("span", { class: "proof-mark", "aria-hidden": "true" });
    const says = make("span", { class: "proof-says", role: "status" });
    const rest = make("span", { class: "proof-facts" });
    const check = make("button", { type: "button", text: P.say("proof.check"), hidden: true, onclick: ask });
    const more = make("button", { type: "button", class: "proof-more", text: P.say("proof.how"), "aria-expanded": "false", hidden: true, onclick: () => ((open = !open), paintHow()) });
    const how = make("p", { class: "proof-how", hidden: true });
    const strip = make("section", { class: "card proof", "aria-label": P.say("proof.label") }, mark, says);
    element.replaceChildren(strip);

    function paintHow() {
      how.hidden = !open || more.hidden;
      more.setAttribute("aria-expanded", String(!how.hidden));
    }

    function quoted({ who, token, p, role }) {
      const said = make("span", {}, `${P.say(who)} `);
      said.append(make("span", { class: `tok ${role}` }, ...P.spell(token, true)), ` ${P.say("proof.here-p", { p: P.percent(p) })}`);
      return said;
    }

    function meter({ share, mark, over, says }) {
      const bar = make("span", { class: `meter${over ? " over" : ""}`, role: "img", "aria-label": P.say(says), title: P.say(says) });
      bar.append(make("i", { style: `width:${(100 * share).toFixed(1)}%` }), make("b", { style: `left:${(100 * mark).toFixed(1)}%` }));
      return bar;
    }

    function paint(value) {
      if (!value || value.run !== run || live) return;
      strip.className = `card proof ${["good", "bad", "tie"].includes(value.tone) ? value.tone : ""}`;
      mark.textContent = value.mark ?? "·";
      says.setAttribute("aria-live", value.mark === "…" ? "off" : "polite"); // the end is worth saying, not every token
      says.textContent = P.say(value.says);
      rest.textContent = P.say(value.facts);
      check.hidden = !value.check;
      more.hidden = !value.how;
      how.textContent = P.say(value.how);
      const busy = value.fraction === undefined ? null : make("progress", { max: 1, value: value.fraction, "aria-hidden": "true" });
      strip.replaceChildren(...[mark, says, ...(value.tokens ?? []).map(quoted), value.meter && meter(value.meter), busy, rest, check, more, how].filter(Boolean));
      paintHow();
    }

    function ask() {
      check.hidden = true;
      trigger("check", { run });
    }

    /* Told by the page's scrubber whenever another run, or another step of it, is shown. */
    async function follow(state) {
      const ended = live && !state.live && state.run === run;
      const same = state.run === run && Boolean(state.live) === live;
      run = state.run;
      live = Boolean(state.live);
      if (same) return;
      if (live) {
        strip.className = "card proof";
        mark.textContent = "·";
        says.textContent = P.say("proof.later");
        strip.replaceChildren(mark, says);
        return;
      }
      const value = P.parse(await server.known({ run }).catch(() => ""), null);
      paint(value);
      if (ended && value?.check && value.run === run) ask();
    }

    watch("value", () => paint(P.parse(props.value, null)));
    const page = element.closest(".page") ?? document;
    page.addEventListener("playground:step", ({ detail }) => follow(detail));
    const bar = page.querySelector(".scrubber");
    if (bar?.dataset.run) follow({ run: bar.dataset.run, live: bar.classList.contains("live") });
  };
})();
