/* Header, pages and footer. The header asks the server now and then what is loaded and who is running. */
(() => {
  const P = window.Playground;
  const { make } = P;

  /* The run in the address bar, so that reload and links bring it back. */
  P.address = (run) => {
    const url = new URL(location.href);
    if (url.searchParams.get("run") === run) return;
    url.searchParams.set("run", run);
    url.searchParams.delete("setup"); // done: the run itself says what it was
    history.replaceState(history.state, "", url);
  };

  /* Pages are `?view=…`: Gradio keeps `?page=…` for routes of its own. */
  P.kinds.header = (element, { props, trigger, server }) => {
    const pages = JSON.parse(props.pages);
    const nav = make("nav", { "aria-label": P.say("shell.pages") });
    const model = make("button", { type: "button", class: "chip model", title: P.say("shell.choose-model"), onclick: () => go("models") });
    const people = make("span", { class: "chip people" });
    const bar = make("header", { class: "shell" }, make("a", { class: "name", href: "./", text: P.say("shell.title") }), nav, make("span", { class: "grow" }), P.projectorButton(), model, people);
    element.replaceChildren(bar);
    let said = null;

    function go(page, push = true) {
      document.body.dataset.page = page;
      for (const link of nav.children) link.dataset.page === page ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
      if (push) {
        const url = new URL(location.href);
        page === "play" ? url.searchParams.delete("view") : url.searchParams.set("view", page);
        for (const name of ["lesson", "at"]) url.searchParams.delete(name); // places on the Learn page
        history.pushState({ page }, "", url);
        window.scrollTo(0, 0);
      }
      trigger("turn", { page });
      setTimeout(() => window.dispatchEvent(new Event("resize")), 50);
    }
    P.state.go = go;

    /* In the footer: the same page in another language, remembered by this browser. */
    function offerLanguages() {
      const foot = document.querySelector(".shell-foot");
      if (!foot) return setTimeout(offerLanguages, 100); // it is mounted after the header
      if (P.languages.length < 2 || foot.querySelector("select")) return;
      const named = (one) => new Intl.DisplayNames([one], { type: "language" }).of(one);
      const choice = make("select", { "aria-label": P.say("shell.language"), onchange: () => {
        localStorage.setItem("playground-language", choice.value);
        const url = new URL(location.href);
        url.searchParams.delete("lang");
        location.replace(url);
      } }, ...P.languages.map((one) => make("option", { value: one, lang: one, text: named(one), selected: one === P.language })));
      foot.append(choice);
    }
    offerLanguages();
    for (const id of pages)
      nav.append(make("a", { href: `?view=${id}`, "data-page": id, text: P.say(`${id}.page`), onclick: (event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey) return;
        event.preventDefault();
        go(id);
      } }));
    window.addEventListener("popstate", () => go(new URL(location.href).searchParams.get("view") ?? "play", false));
    const first = new URL(location.href).searchParams.get("view");
    go(pages.includes(first) ? first : "play", false);

    let next = null;
    async function ask() {
      clearTimeout(next);
      let wait = 4000;
      try {
        const status = await server.status({ page: P.page });
        model.replaceChildren(make("span", { text: P.say(status.model) }));
        if (status.fraction !== null) {
          wait = 500;
          model.append(make("progress", { max: 1, value: status.fraction, "aria-label": status.model }));
        }
        model.classList.toggle("problem", Boolean(status.problem));
        if (status.problem) model.title = status.problem;
        people.textContent = P.say(status.people);
        if (status.loaded && said !== status.loaded) trigger("loaded", { loaded: status.loaded });
        const kept = document.querySelector(".shell-foot .kept");
        if (kept) kept.textContent = P.say(status.kept);
        said = status.loaded;
      } catch {
        people.textContent = P.say("shell.no-connection");
      }
      clearTimeout(next);
      next = setTimeout(ask, document.hidden ? 10000 : wait);
    }
    if (P.embedded) return;
    P.state.ask = ask;
    ask();
  };

  P.kinds["page-id"] = (element, { props }) => {
    /* While a page is still being built, Gradio may put its own first value back. So the id is said once more before
       anything is asked for; the empty value in between makes it count as a change. */
    const tell = () => {
      props.value = "";
      props.value = P.page;
    };
    tell();
    document.addEventListener("pointerdown", tell, true);
    document.addEventListener("keydown", (event) => event.key === "Enter" && tell(), true);
  };
})();
