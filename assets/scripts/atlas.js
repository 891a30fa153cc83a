/* The acceptance atlas: asked for when it is opened, a table of rates that can be saved. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const say = (name, args) => P.say(`sessions.${name}`, args);

  P.csv = (rows) => {
    const cell = (value) => (/[",\n\r]/.test(String(value ?? "")) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? ""));
    return new Blob([rows.map((row) => row.map(cell).join(",")).join("\r\n")], { type: "text/csv" });
  };

  P.kinds.atlas = (element, { props, trigger, watch }) => {
    let ticket = 0;
    const body = make("div", { class: "panel-body" });
    const fold = make("details", { class: "card folded atlas", ontoggle: () => fold.open && ask() }, make("summary", {}, make("h2", { text: say("atlas") }), make("span", { class: "explains", text: say("atlas-why") })), body);
    element.replaceChildren(fold);

    function ask() {
      ticket += 1;
      trigger("ask", { ticket: `${P.page}${ticket}` });
    }

    function cell(rate) {
      if (!rate) return make("td", { class: "num none" }, make("span", { "aria-hidden": "true", text: "·" }));
      const box = make("td", { class: "num", title: say("cell", { accepted: rate.accepted, tested: rate.tested }) }, make("b", { text: `${Math.round(100 * rate.rate)}%` }), make("small", { text: rate.tested.toLocaleString(P.language) }));
      box.style.background = `var(--sure-${rate.level})`;
      box.style.color = rate.rate >= 0.75 ? "var(--accent-ink)" : "var(--ink)";
      return box;
    }

    function save(value) {
      const rows = [["method", "category", "runs", "tokens_ahead", "accepted", "tested", "rate"]];
      for (const row of value.rows)
        row.cells.forEach((one, index) => one && rows.push([row.method, row.category || "own prompts", row.runs, index + 1, one.accepted, one.tested, one.rate]));
      P.download("acceptance-atlas.csv", P.csv(rows));
    }

    function update() {
      const value = P.parse(props.value, null);
      if (!value) return;
      const left = value.left ? make("p", { class: "explains" }, document.createTextNode(say("atlas-left", { n: value.left })), document.createTextNode(" "), make("button", { type: "button", class: "quiet", text: say("atlas-on"), onclick: ask })) : null;
      if (!value.rows.length) return body.replaceChildren(...[make("p", { class: "empty-runs", text: value.problem ?? say("atlas-empty") }), left].filter(Boolean));
      const columns = Array.from({ length: value.columns }, (_, index) => index + 1);
      let last = null;
      const rows = value.rows.map((row) => {
        const method = row.method === last ? "" : row.method;
        last = row.method;
        return make("tr", { class: method ? "begins" : "" }, make("th", { scope: "row" }, make("b", { text: method }), make("span", { text: row.category || say("own-prompts") }), make("small", { text: say(row.runs === 1 ? "runs-one" : "runs", { n: row.runs }) })), cell(row.total), ...row.cells.map(cell), ...columns.slice(row.cells.length).map(() => cell(null)));
      });
      const table = make("table", { class: "atlas-table", "aria-describedby": "atlas-caption" },
        make("thead", {}, make("tr", {}, make("th", { scope: "col", text: say("atlas-rows") }), make("th", { scope: "col", class: "num", text: say("all") }), ...columns.map((ahead) => make("th", { scope: "col", class: "num", text: say("ahead", { n: ahead }) })))),
        make("tbody", {}, ...rows));
      body.replaceChildren(...[make("p", { class: "explains", id: "atlas-caption", text: say("atlas-caption") }), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": say("atlas") }, table), make("p", { class: "explains", text: say("atlas-note") }), make("p", {}, make("button", { type: "button", class: "quiet", text: say("save-csv"), onclick: () => save(value) })), left].filter(Boolean));
    }
    watch("value", update);
    update();
  };
})();
