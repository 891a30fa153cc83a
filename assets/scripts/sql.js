/* The SQL box: one SELECT over one's own runs; Ctrl+Enter asks. */
(() => {
  const P = window.Playground;
  const { make } = P;
  const say = (name, args) => P.say(`sessions.${name}`, args);

  P.kinds.sql = (element, { props, trigger, watch }) => {
    const examples = P.parse(props.examples, []);
    const columns = P.parse(props.columns, {});
    let ticket = 0;
    let wanted = "";
    const text = make("textarea", { rows: 5, spellcheck: "false", autocapitalize: "off", autocomplete: "off", maxlength: 10000, "aria-label": say("sql-label"), "aria-describedby": "sql-why" });
    const ask = make("button", { type: "button", class: "quiet strong", text: say("sql-ask"), onclick: run });
    const result = make("div", { class: "result" });
    text.value = examples[0]?.sql ?? "";
    text.addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && (event.preventDefault(), run()));
    const names = Object.entries(columns).map(([table, all]) => make("p", { class: "columns" }, make("b", { text: table }), document.createTextNode(` ${all.join(", ")}`)));
    const fold = make("details", { class: "card folded sql" }, make("summary", {}, make("h2", { text: say("sql") }), make("span", { class: "explains", text: say("sql-short") })),
      make("p", { class: "explains", id: "sql-why", text: say("sql-why", { n: props.most }) }),
      make("div", { class: "chips-row", role: "group", "aria-label": say("examples") }, ...examples.map((one) => make("button", { type: "button", class: "chip", text: P.say(one.title), onclick: () => ((text.value = one.sql), run()) }))),
      text, make("p", { class: "ask-row" }, ask, make("small", { text: say("sql-key") })), result,
      make("details", { class: "columns-list" }, make("summary", { text: say("sql-columns") }), ...names));
    element.replaceChildren(fold);

    function run() {
      ticket += 1;
      wanted = `${P.page}${ticket}`;
      result.setAttribute("aria-busy", "true");
      result.replaceChildren(make("p", { class: "explains", role: "status", text: say("looking") }));
      trigger("ask", { sql: text.value, ticket: wanted });
    }

    function update() {
      const value = P.parse(props.value, null);
      if (!value || value.ticket !== wanted) return;
      result.removeAttribute("aria-busy");
      if (value.problem) return result.replaceChildren(make("p", { class: "verdict bad", role: "alert", text: value.problem, dir: "auto" }));
      const numeric = value.columns.map((_, index) => value.rows.length > 0 && value.rows.every((row) => row[index] === null || /^-?[\d.]+(e[-+]?\d+)?$/i.test(row[index])));
      const cell = (one, index) => (one === null ? make("td", { class: "null" }, make("i", { text: "null" })) : make("td", { class: numeric[index] ? "num" : "", text: one, dir: numeric[index] ? null : "auto" }));
      const table = make("table", { class: "sql-table" }, make("thead", {}, make("tr", {}, ...value.columns.map((name, index) => make("th", { scope: "col", class: numeric[index] ? "num" : "", text: name })))), make("tbody", {}, ...value.rows.map((row) => make("tr", {}, ...row.map(cell)))));
      const said = say(value.full ? (value.rows.length === 1 ? "sql-row" : "sql-rows") : "sql-cut", { n: value.rows.length.toLocaleString(P.language) });
      result.replaceChildren(
        make("p", { class: "ask-row" }, make("span", { role: "status", text: said }), value.rows.length ? make("button", { type: "button", class: "quiet", text: say("save-csv"), onclick: () => P.download("runs.csv", P.csv([value.columns, ...value.rows])) }) : null),
        make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": say("sql-result") }, table));
    }
    watch("value", update);
  };
})();
