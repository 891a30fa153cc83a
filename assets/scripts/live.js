/* What all live components share. Each kind registers a `mount` function; `js_on_load` calls it once.
   Text reaches the page by textContent only: `make` has no way to set markup. */
(() => {
  /* In a frame of another site the browser may forbid to store anything, by an error at the mere name: Gradio would
     stop there. Such a page remembers until it is closed. */
  for (const name of ["localStorage", "sessionStorage"]) {
    try {
      window[name].length;
    } catch {
      const kept = new Map();
      const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => void kept.set(key, String(value)), removeItem: (key) => void kept.delete(key), clear: () => kept.clear(), key: (place) => [...kept.keys()][place] ?? null };
      Object.defineProperty(window, name, { value: storage, configurable: true });
    }
  }

  const kinds = {};
  const themed = new Set();

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "text") node.textContent = value;
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
    return node;
  }

  const parse = (value, otherwise) => {
    try {
      return value ? JSON.parse(value) : otherwise;
    } catch {
      return otherwise;
    }
  };

  const isDark = () => document.body.classList.contains("dark");

  function onTheme(callback) {
    themed.add(callback);
  }

  new MutationObserver(() => themed.forEach((callback) => callback())).observe(document.documentElement, {
    attributes: true,
    attributeFilter: ["class"],
    subtree: false,
  });
  const watchBody = () =>
    new MutationObserver(() => themed.forEach((callback) => callback())).observe(document.body, {
      attributes: true,
      attributeFilter: ["class"],
    });
  document.body ? watchBody() : document.addEventListener("DOMContentLoaded", watchBody);

  let plotly = null;
  function loadPlotly(url) {
    plotly ??= new Promise((resolve, reject) => {
      if (window.Plotly) return resolve(window.Plotly);
      const script = make("script", { src: url });
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error("plotly.min.js could not be loaded"));
      document.head.append(script);
    });
    return plotly;
  }

  function download(name, blob) {
    const link = make("a", { href: URL.createObjectURL(blob), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  /* The server draws only what someone can see: panels report here, and one message tells the server. */
  const page = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const visible = new Set();
  let telling = null;
  function see(id, shown, tell) {
    shown ? visible.add(id) : visible.delete(id);
    clearTimeout(telling);
    telling = setTimeout(() => tell({ page, pictures: [...visible] }).catch(() => {}), 120);
  }

  const percent = (p) => (p === null || p === undefined ? "–" : p >= 0.9995 ? "1.00" : p < 0.0005 ? "<0.001" : p.toFixed(p < 0.1 ? 3 : 2));

  /* The page's words, in the language of `?lang=`, of the last choice, or of the browser. What the server sends is a
     plain string, or {key, args}; English stands in for what a language has not translated. */
  const words = {};
  const addresses = parse(document.querySelector('meta[name="playground-texts"]')?.content, {});
  const shipped = parse(document.getElementById("playground-words")?.textContent, {}); // pages of plain files bring theirs along
  const wanted = [new URL(location.href).searchParams.get("lang"), localStorage.getItem("playground-language"), ...navigator.languages];
  const language = wanted.map((one) => one?.slice(0, 2).toLowerCase()).find((one) => one in addresses || one in shipped) ?? "en";
  document.documentElement.lang = language;

  function say(text, args) {
    if (text === null || text === undefined) return "";
    if (typeof text === "object") return say(text.key, text.args);
    let found = words;
    if (/^[\w-]+(\.[\w-]+)+$/.test(text)) for (const part of text.split(".")) found = found?.[part];
    const template = typeof found === "string" ? found : text;
    return args ? template.replace(/\{(\w+)\}/g, (whole, name) => (name in args ? say(args[name]) : whole)) : template;
  }

  /* The translation of a fixed English text that a method or picture says of itself; the text itself without one. */
  const translated = (key, english) => {
    const found = say(key);
    return found === key ? english : found;
  };

  const merge = (into, from) => {
    for (const [name, value] of Object.entries(from)) typeof value === "object" ? merge((into[name] ??= {}), value) : (into[name] = value);
  };
  for (const one of ["en", language]) if (shipped[one]) merge(words, shipped[one]);
  const fetched = [...new Set(["en", language])].map((one) => addresses[one] && fetch(addresses[one]).then((answer) => answer.json()));
  // The scripts run in order, this one first: components wait for the last, since any may use what another brings.
  const last = [...document.querySelectorAll('script[src*="/scripts/"]')].at(-1);
  const scripts = new Promise((done) => {
    if (!last || last === document.currentScript) return done();
    for (const event of ["load", "error"]) last.addEventListener(event, () => done());
  });
  Promise.allSettled([...fetched, scripts]).then((all) => {
    for (const one of all) if (one.status === "fulfilled" && one.value) merge(words, one.value);
    window.Playground.ready = true;
  });

  const languages = Object.keys(addresses);
  window.Playground = { say, translated, language, languages, kinds, make, parse, isDark, onTheme, loadPlotly, download, see, page, percent, state: {} };
})();
