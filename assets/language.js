/* Runs before everything else on the page: Gradio asks the browser once for the language of its own parts, and
   should hear what this reader has chosen, by `?lang=` or earlier. LANGUAGES is filled in by the server. */
(() => {
  let chosen = new URL(location.href).searchParams.get("lang");
  try {
    chosen ??= localStorage.getItem("playground-language");
  } catch {
    // a browser that keeps nothing: its own language holds
  }
  if (!LANGUAGES.includes(chosen) || navigator.language.startsWith(chosen)) return;
  Object.defineProperty(navigator, "language", { get: () => chosen, configurable: true });
  Object.defineProperty(navigator, "languages", { get: () => [chosen], configurable: true });
})();
