"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const root = document.documentElement;

  // Theme: as the system says, or as chosen. A file opened from disk may have no storage.
  const themes = ["system", "light", "dark"];
  const button = document.getElementById("theme");
  const remembered = () => { try { return localStorage.getItem("medtune-theme"); } catch { return null; } };
  const setTheme = (theme) => {
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    button.setAttribute("aria-label", `Theme: ${theme === "system" ? "as the system" : theme}`);
    button.dataset.now = theme;
    try { localStorage.setItem("medtune-theme", theme); } catch { /* not remembered, then */ }
  };
  setTheme(themes.includes(remembered()) ? remembered() : "system");
  button.addEventListener("click", () => setTheme(themes[(themes.indexOf(button.dataset.now) + 1) % 3]));

  // Sorting: figures as figures, words as words, what is missing last.
  const keyOf = (row, index) => {
    const cell = row.children[index];
    const text = cell.dataset.sort ?? null;
    if (text === null) return cell.textContent.trim() && cell.textContent.trim() !== "-" ? cell.textContent.trim() : null;
    return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  for (const table of all("table[data-sortable]")) {
    const heads = all("thead th", table);
    heads.forEach((head, index) => head.querySelector(".sort").addEventListener("click", () => {
      const body = table.tBodies[0];
      const rows = [...body.rows];
      const first = rows.map((row) => keyOf(row, index)).find((key) => key !== null);
      const now = head.getAttribute("aria-sort");
      const down = now ? now === "ascending" : typeof first === "number";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.sort((one, two) => {
        const a = keyOf(one, index), b = keyOf(two, index);
        if (a === null || b === null) return (a === null) - (b === null);
        return down ? compare(b, a) : compare(a, b);
      });
      body.append(...rows);
    }));
  }

  // Search: every word must be in the row.
  const search = document.getElementById("search");
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, total = 0;
    for (const row of all("tbody tr")) {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word));
      row.classList.toggle("off", !fits);
      total += 1;
      shown += fits;
    }
    document.getElementById("found").textContent = words.length ? `${shown} of ${total} rows` : "";
  });

  // The cost on the Pareto view's axis.
  for (const pareto of all(".pareto")) {
    const show = () => {
      const chosen = pareto.querySelector("input:checked");
      all(".view", pareto).forEach((view) => { view.hidden = view.dataset.view !== chosen.value; });
    };
    all("input", pareto).forEach((input) => input.addEventListener("change", show));
    show();
  }

  // The legend shows and hides a strategy in all charts of its data set.
  for (const charts of all(".charts")) {
    all("[data-toggle]", charts).forEach((toggle) => toggle.addEventListener("click", () => {
      const on = toggle.getAttribute("aria-pressed") !== "true";
      toggle.setAttribute("aria-pressed", String(on));
      all(`figure [data-series="${toggle.dataset.toggle}"]`, charts).forEach((part) => part.classList.toggle("off", !on));
    }));
  }

  // What a point stands for, on hover and on focus.
  const tip = document.getElementById("tip");
  const showTip = (target) => {
    const about = target.closest && target.closest("[data-tip]");
    if (!about || !about.dataset.tip) { tip.hidden = true; return; }
    tip.textContent = about.dataset.tip;
    tip.hidden = false;
    const box = about.getBoundingClientRect();
    const left = Math.min(box.left + box.width / 2 + 12, root.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(left, 8) + window.scrollX}px`;
    tip.style.top = `${Math.max(box.top - tip.offsetHeight - 8, 4) + window.scrollY}px`;
  };
  document.addEventListener("pointerover", (event) => showTip(event.target));
  document.addEventListener("focusin", (event) => showTip(event.target));
  document.addEventListener("focusout", () => { tip.hidden = true; });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  all(".copy").forEach((copy) => copy.addEventListener("click", async () => {
    const code = copy.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      copy.textContent = "Copied";
    } catch { // No clipboard for files in some browsers: select it instead.
      getSelection().selectAllChildren(code);
      copy.textContent = "Selected";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  }));

  const save = document.getElementById("save");
  if (save) save.addEventListener("click", () => {
    const text = JSON.stringify(JSON.parse(document.getElementById("data").textContent), null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "medtune-report.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });

  addEventListener("beforeprint", () => all("details").forEach((part) => { part.open = true; }));
})();
