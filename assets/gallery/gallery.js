/* Stands in for Gradio on a page of plain files: gives the live components their values, step by step. */
(() => {
  const P = window.Playground;

  /* Light or dark: as the system likes it, or as chosen here. */
  const system = matchMedia("(prefers-color-scheme: dark)");
  const asked = new URL(location.href).searchParams.get("__theme");
  let chosen = asked === "dark" ? true : asked === "light" ? false : null;
  const theme = () => document.body.classList.toggle("dark", chosen ?? system.matches);
  system.addEventListener("change", theme);
  theme();
  const header = document.querySelector("header.shell");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  const label = () => (button.textContent = document.body.classList.contains("dark") ? "light" : "dark");
  button.addEventListener("click", () => {
    chosen = !document.body.classList.contains("dark");
    theme();
    label();
  });
  label();
  header.append(button);
  if (!P) return; // the list of runs

  /* The other half of `difference` in playground/gallery.py: `old` is left as it is. */
  function applied(old, change) {
    if (change === null) return old;
    const [kind, a, b, c] = change;
    if (kind === "=") return a;
    if (kind === "|") return [...old.slice(0, a), ...c, ...old.slice(a + b)];
    const next = kind === "@" ? [...old.slice(0, a), ...c] : { ...old };
    for (const [name, inner] of Object.entries(kind === "@" ? b : a)) next[name] = applied(Object.hasOwn(old, name) ? old[name] : null, inner);
    if (kind === "~") for (const name of b) delete next[name];
    return next;
  }

  const read = (name) => JSON.parse(document.getElementById(`playground-${name}`).textContent);
  const { first, deltas } = read("frames");
  const frames = [first];
  function frame(step) {
    while (frames.length <= step) frames.push(applied(frames.at(-1), deltas[frames.length - 1]));
    return frames[step];
  }

  /* A component like those of the app: `value` through `props`, `watch` for news of it, `trigger` to say something. */
  function mount(kind, parent, more = {}, server = {}, heard = () => {}) {
    const watchers = [];
    const element = P.make("div", { class: `block live-${kind}` });
    const props = { value: "", ...more };
    parent.append(element);
    P.kinds[kind](element, { props, server, trigger: heard, watch: (_, then) => watchers.push(then) });
    return (value) => {
      props.value = value;
      for (const tell of watchers) tell();
    };
  }

  function start() {
    const stage = document.getElementById("stage");
    const numbers = mount("numbers", stage);
    const stream = mount("tokens", stage);
    const scrubber = mount("scrubber", stage, {}, {}, (name, said) => name === "step" && setTimeout(() => show(said.step))); // the scrubber expects an answer that takes its time
    const grid = P.make("div", { class: "pictures" });
    stage.append(grid);
    mount("glossary", stage, { value: JSON.stringify(read("glossary")) });
    let now = 0;
    const server = {
      see: async () => {},
      narrate: async ({ picture }) => frame(now).plots[picture]?.narration ?? "",
      table: async ({ picture }) => table(frame(now).plots[picture]),
    };
    const dark = read("dark");
    const plots = Object.fromEntries(read("pictures").filter((id) => id in frame(deltas.length).plots).map((id) => [id, mount("plot", grid, { picture: id, plotly: "scripts/plotly.min.js", dark }, server)]));

    function show(step) {
      now = step;
      const view = frame(step);
      numbers(JSON.stringify(view.numbers));
      stream({ head: JSON.stringify(view.stream.head), tokens: view.stream.tokens.map((token) => JSON.stringify(token)) });
      for (const [id, tell] of Object.entries(plots)) {
        const plot = view.plots[id];
        if (plot) tell(JSON.stringify({ ...plot, step, figure: plot.figure ? JSON.stringify(plot.figure) : "" }));
      }
      scrubber(JSON.stringify(view.scrubber));
    }
    header.insertBefore(P.projectorButton(), button);
    show(deltas.length);
  }

  /* The numbers of a drawing, as far as the drawing holds them. */
  function table(plot) {
    const rows = [["trace", "x", "y"]];
    for (const [index, trace] of (plot?.figure?.data ?? []).entries())
      for (let k = 0; k < Math.max(trace.x?.length ?? 0, trace.y?.length ?? 0); k++)
        if (trace.y?.[k] !== null) rows.push([trace.name ?? index, trace.x?.[k] ?? "", trace.y?.[k] ?? ""]);
    return rows;
  }

  P.frozen = true;
  P.state.go = () => {};
  const ready = () => (P.ready ? start() : setTimeout(ready, 10));
  ready();
})();
