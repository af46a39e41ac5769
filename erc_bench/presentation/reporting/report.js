"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  for (const part of all(".needs-script")) part.hidden = false;

  // Tables: a press sorts, the next reverses, the third restores the order of the records.
  const FIRST = { number: "descending", text: "ascending" };
  for (const table of all("table")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const key = (row, column, kind) => {
      if (kind === "text") return row.cells[column].textContent.trim();
      const text = row.dataset.v.split(",")[column - 1];
      return text === "" ? null : Number(text);
    };
    heads.forEach((head, column) => {
      const kind = head.dataset.sort;
      if (!kind) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const other = FIRST[kind] === "ascending" ? "descending" : "ascending";
        const now = head.getAttribute("aria-sort");
        const next = now === null ? FIRST[kind] : now === FIRST[kind] ? other : null;
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        let sorted = rows;
        if (next) {
          head.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          const keyed = rows.map((row) => [key(row, column, kind), row]);
          keyed.sort(([a], [b]) => {
            if (a === null || b === null) return (a === null) - (b === null);  // at the end, either way
            return a < b ? -sign : a > b ? sign : 0;
          });
          sorted = keyed.map(([, row]) => row);
        }
        body.append(...sorted);
      });
    });
  }

  // Filter: rows and marks carry the numbers of their objectives.
  const boxes = all("#filter input");
  const marks = all("[data-o]").map((part) => [part, part.dataset.o.split(" ")]);
  const numbers = boxes.map((box) => box.dataset.number);
  let anchor = "";
  const state = () => {
    const shown = boxes.filter((box) => box.checked).map((box) => box.value);
    return shown.length === boxes.length ? "" : "show=" + shown.map(encodeURIComponent).join(",");
  };
  const write = () => {
    const fragment = [anchor, state()].filter(Boolean).join("&");
    history.replaceState(null, "", fragment ? "#" + fragment : location.pathname + location.search);
  };
  const apply = () => {
    const off = new Set(numbers.filter((_, i) => !boxes[i].checked));
    for (const [part, own] of marks) part.classList.toggle("off", own.some((n) => off.has(n)));
    const shown = boxes.length - off.size;
    byId("shown").textContent = off.size === 0 ? `all ${shown} shown` : `${shown} of ${boxes.length} shown`;
  };
  const decoded = (text) => {
    try { return decodeURIComponent(text); } catch { return null; }
  };
  const read = () => {
    const parts = location.hash.slice(1).split("&");
    anchor = parts[0].includes("=") ? "" : parts[0];
    const show = parts.find((part) => part.startsWith("show="));
    if (show !== undefined) {
      const wanted = show.slice(5) === "" ? [] : show.slice(5).split(",").map(decoded);
      const known = new Set(boxes.map((box) => box.value).filter((name) => wanted.includes(name)));
      const usable = known.size > 0 || wanted.length === 0;
      for (const box of boxes) box.checked = !usable || known.has(box.value);
    }
    apply();
    write();
    const target = anchor && byId(decoded(anchor));
    if (target && show !== undefined) target.scrollIntoView({ behavior: "instant" });
  };
  if (boxes.length) {
    const panel = byId("filter").querySelector("details");
    if (matchMedia("(max-width: 60rem)").matches) panel.open = false;
    const changed = () => { apply(); write(); };
    byId("filter").addEventListener("change", changed);
    for (const button of all("#filter button")) {
      button.addEventListener("click", () => {
        for (const box of boxes) box.checked = button.value === "all";
        changed();
      });
    }
    addEventListener("hashchange", read);
    read();
    const bar = byId("filter");
    new ResizeObserver(() => {
      document.documentElement.style.setProperty("--bar", `${bar.offsetHeight}px`);
    }).observe(bar);
  }

  // Figures: the drawing itself moves into the dialog, so its ids stay unique and the filter holds.
  const dialog = byId("zoom");
  const stage = dialog.querySelector(".plate");
  let home = null;
  let scale = 1;
  const resize = (factor) => {
    scale = Math.min(Math.max(scale * factor, 1), 8);
    stage.firstElementChild.style.width = `${100 * scale}%`;
  };
  const open = (figure) => {
    home = figure.querySelector(".plate");
    home.style.minHeight = `${home.offsetHeight}px`;
    dialog.querySelector("h2").textContent = figure.querySelector("h3").textContent;
    stage.append(home.firstElementChild);
    scale = matchMedia("(max-width: 40rem)").matches ? 2 : 1;
    dialog.showModal();
    resize(1);
  };
  dialog.addEventListener("close", () => {
    const drawing = stage.firstElementChild;
    drawing.style.width = "";
    home.append(drawing);
    home.style.minHeight = "";
  });
  dialog.addEventListener("click", (event) => {
    const press = event.target.value;
    if (event.target === dialog || press === "close") dialog.close();
    else if (press === "larger") resize(1.5);
    else if (press === "smaller") resize(1 / 1.5);
  });
  const save = (figure) => {
    const drawing = figure.querySelector("svg").cloneNode(true);
    for (const part of all(".off", drawing)) part.remove();
    drawing.removeAttribute("style");
    const text = new XMLSerializer().serializeToString(drawing);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    link.download = `${figure.id}.svg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  for (const figure of all("main figure")) {
    figure.querySelector(".plate").addEventListener("click", () => open(figure));
    figure.querySelector("[value=zoom]").addEventListener("click", () => open(figure));
    figure.querySelector("[value=svg]").addEventListener("click", () => save(figure));
  }

  // Command lines.
  for (const button of all(".command button")) {
    button.addEventListener("click", async () => {
      const text = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // Contents: the link of the part that is being read.
  const links = new Map(all(".toc a").map((link) => [byId(link.hash.slice(1)), link]));
  const inView = new Set();
  const spy = new IntersectionObserver((entries) => {
    for (const entry of entries) inView[entry.isIntersecting ? "add" : "delete"](entry.target);
    const last = [...links.keys()].filter((part) => inView.has(part)).pop();
    for (const [part, link] of links) {
      if (part === last) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-10% 0px -65% 0px" });
  for (const part of links.keys()) if (part) spy.observe(part);
})();
