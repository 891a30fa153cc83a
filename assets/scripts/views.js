/* Two ways to show less. Embed (`?view=embed&run=…`): a run in a frame of another page. Projector (`?projector=1`, the
   button, the key P): large type, the rail and the header wait at the edges; remembered by this tab, Escape leaves. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const root = document.documentElement;
  const query = new URL(location.href).searchParams;

  P.embedded = query.get("view") === "embed";
  if (P.embedded) {
    P.frozen = true; // a click in somebody's article must not start a run here
    root.dataset.embed = "";
    const whenReady = (then) => (document.body && P.ready ? then() : setTimeout(() => whenReady(then), 15));
    // The page is built with another run on its stage: that one is not shown while the asked one is on its way.
    const arrived = () => !query.get("run") || document.querySelector(".page-play .scrubber")?.dataset.run === query.get("run") || document.querySelector(".page-play .message.problem:not([hidden])");
    const wait = () => (arrived() ? (root.dataset.embed = "shown") : setTimeout(wait, 50));
    wait();
    whenReady(() => {
      const home = new URL(location.href);
      for (const name of ["view", "__theme"]) home.searchParams.delete(name);
      document.body.append(make("p", { class: "embed-foot" }, make("a", { href: home.href, target: "_blank", rel: "noopener", text: P.say("share.open-here") })));
    });
  }

  const button = make("button", { type: "button", class: "chip projector-toggle", "aria-pressed": "false", onclick: () => set(!on) });
  const told = make("p", { class: "projector-told", role: "status" });
  let on = false;
  let telling = null;

  function set(next, quiet) {
    if (on === next) return;
    on = next;
    root.toggleAttribute("data-projector", on);
    button.setAttribute("aria-pressed", String(on));
    sessionStorage.setItem("playground-projector", on ? "1" : "");
    if (on && document.activeElement === button) button.blur(); // the header hides once nothing in it has the focus
    const url = new URL(location.href);
    if (!on && url.searchParams.has("projector")) url.searchParams.delete("projector"), history.replaceState(history.state, "", url);
    P.redraw();
    if (quiet) return;
    if (!told.isConnected) document.body.append(told);
    told.textContent = P.say(on ? "share.projector-on" : "share.projector-off");
    clearTimeout(telling);
    telling = setTimeout(() => (told.textContent = ""), 4500);
  }

  P.redraw = () => setTimeout(() => window.dispatchEvent(new Event("resize")), 60);
  P.projectorButton = () => {
    button.textContent = P.say("share.projector");
    button.title = P.say("share.projector-explains");
    button.setAttribute("aria-keyshortcuts", "P");
    return button;
  };

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.repeat || P.embedded) return;
    if (event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select, [role=combobox], [contenteditable], dialog")) return;
    if (event.key === "p" || event.key === "P") set(!on);
    else if (event.key === "Escape" && on && !document.querySelector("dialog[open], .picture.expanded, .popover:not([hidden]), .picker-pop:not([hidden])")) set(false);
    else return;
    event.preventDefault();
  });

  if (!P.embedded && (query.get("projector") === "1" || sessionStorage.getItem("playground-projector") === "1")) set(true, true);
})();
