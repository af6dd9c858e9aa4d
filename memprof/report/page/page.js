"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const digits = (number) => number.toLocaleString("en-US");

  // Exact bytes, under the pointer and for the focus.
  const tip = document.getElementById("tip");
  const say = (element, x, y) => {
    tip.textContent = element.dataset.tip;
    tip.hidden = false;
    const room = document.documentElement;
    const left = Math.min(x + 14, room.clientWidth - tip.offsetWidth - 6);
    const above = y - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(6, left)}px`;
    tip.style.top = `${above > 6 ? above : y + 18}px`;
  };
  const hush = () => { tip.hidden = true; };
  document.addEventListener("pointermove", (event) => {
    const told = event.target.closest?.("[data-tip]");
    if (told) say(told, event.clientX, event.clientY); else if (event.pointerType === "mouse") hush();
  });
  document.addEventListener("pointerdown", (event) => {
    const told = event.target.closest?.("[data-tip]");
    if (told) say(told, event.clientX, event.clientY); else hush();
  });
  document.addEventListener("focusin", (event) => {
    const box = event.target.getBoundingClientRect();
    if (event.target.matches("[data-tip]:focus-visible")) say(event.target, box.left, box.top); else hush();
  });
  document.addEventListener("scroll", hush, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hush(); });

  // The table: sorted by its headers, filtered by words; the bars follow it.
  const table = document.getElementById("comparison");
  const body = table.tBodies[0];
  const headers = all("th", table);
  const value = (row, place) => {
    const cell = row.cells[place];
    const order = cell.dataset.order;
    if (order === "none") return null;
    return order === undefined ? cell.textContent : Number(order);
  };
  const compare = (one, other) =>
    typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
  const arrange = () => {
    for (const group of all("#memory .bars")) {
      const bars = new Map(all(".bar", group).map((bar) => [bar.dataset.row, bar]));
      for (const row of body.rows) {
        const bar = bars.get(row.dataset.row);
        if (bar) { bar.hidden = row.hidden; group.append(bar); }
      }
    }
  };
  const sort = (place) => {
    const header = headers[place];
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of headers) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = [...body.rows].map((row) => [value(row, place), row]);
    keyed.sort(([one], [other]) => {
      if (one === null || other === null) return (one === null) - (other === null);
      return down ? compare(other, one) : compare(one, other);
    });
    body.append(...keyed.map(([, row]) => row));
    arrange();
  };
  headers.forEach((header, place) => header.querySelector("button").addEventListener("click", () => sort(place)));

  const filter = document.getElementById("filter");
  const narrow = () => {
    // Words between two commas are one wish: all of them; a row has to meet one wish.
    const wishes = filter.value.toLowerCase().split(",").map((wish) => wish.split(/\s+/).filter(Boolean)).filter((words) => words.length);
    let shown = 0;
    for (const row of body.rows) {
      const text = all("td.text", row).map((cell) => cell.textContent.toLowerCase()).join(" ");
      row.hidden = wishes.length > 0 && !wishes.some((words) => words.every((word) => text.includes(word)));
      shown += !row.hidden;
    }
    document.getElementById("count").textContent = `${shown} of ${body.rows.length}`;
    arrange();
  };
  filter.addEventListener("input", narrow);

  // One stop for the tab key; arrows walk from cell to cell.
  for (const cell of all("td", body)) cell.tabIndex = -1;
  if (body.rows.length) body.rows[0].cells[0].tabIndex = 0;
  body.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const cell = event.target.closest("td");
    if (!step || !cell) return;
    const rows = [...body.rows].filter((row) => !row.hidden);
    const next = rows[rows.indexOf(cell.parentElement) + step[0]]?.cells[cell.cellIndex + step[1]];
    if (next) {
      event.preventDefault();
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  });

  // A timeline: its window is the viewBox of what was drawn already.
  const timeline = (figure) => {
    const history = data.timelines[figure.dataset.key];
    const plot = figure.querySelector(".plot");
    const svg = figure.querySelector(".areas");
    const cursor = figure.querySelector(".cursor");
    const readout = figure.querySelector(".readout");
    const brush = figure.querySelector(".brush");
    const side = svg.viewBox.baseVal.height;
    const last = history.events || 1;
    let from = 0, to = 1, at = null, start = null;

    const redraw = () => {
      svg.setAttribute("viewBox", `${from * side} 0 ${(to - from) * side} ${side}`);
      const place = (share) => (100 * (share - from)) / (to - from);
      for (const span of all(".phases span", figure)) {
        const left = Math.max(0, place(Number(span.dataset.begin)));
        const right = Math.min(100, place(Number(span.dataset.end)));
        span.style.left = `${left}%`;
        span.style.width = `${Math.max(0, right - left)}%`;
      }
      const peak = figure.querySelector(".peak");
      const there = place(Number(peak.dataset.at));
      peak.hidden = there < 0 || there > 100;
      peak.classList.toggle("left", there > 60);
      peak.style.left = `${there}%`;
    };
    const show = (begin, end) => {
      const width = Math.min(1, Math.max(end - begin, 4 / last));
      from = Math.min(Math.max(0, begin), 1 - width);
      to = from + width;
      redraw();
    };
    const zoom = (factor, middle) => {
      const centre = middle ?? (at === null ? (from + to) / 2 : history.event[at] / last);
      const held = Math.min(Math.max(centre, from), to);
      show(held - (held - from) * factor, held + (to - held) * factor);
    };
    const point = (index) => {
      at = Math.min(Math.max(0, index), history.event.length - 1);
      const event = history.event[at];
      const parts = Object.keys(data.names).map((name) => [data.names[name], history[name][at]]);
      const total = parts.reduce((sum, [, size]) => sum + size, 0);
      const told = parts.filter(([, size]) => size).map(([name, size]) => `${name} ${digits(size)}`);
      readout.textContent = `${history.phase[at]}, ${digits(event)} of ${digits(history.events)}: ${digits(total)} bytes = ${told.join(" + ")}`;
      const share = event / last;
      if (share < from || share > to) show(share - (to - from) / 2, share + (to - from) / 2);
      cursor.setAttribute("x1", share * side);
      cursor.setAttribute("x2", share * side);
      cursor.setAttribute("visibility", "visible");
    };
    const nearest = (share) => {
      let best = 0;
      history.event.forEach((event, index) => {
        if (Math.abs(event / last - share) < Math.abs(history.event[best] / last - share)) best = index;
      });
      return best;
    };
    const shareAt = (event) => {
      const box = plot.getBoundingClientRect();
      return from + ((event.clientX - box.left) / box.width) * (to - from);
    };
    plot.addEventListener("pointermove", (event) => {
      point(nearest(shareAt(event)));
      if (start === null) return;
      const [left, right] = [start, shareAt(event)].sort((one, other) => one - other);
      brush.hidden = false;
      brush.style.left = `${(100 * (left - from)) / (to - from)}%`;
      brush.style.width = `${(100 * (right - left)) / (to - from)}%`;
    });
    plot.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) {
        start = shareAt(event);
        plot.setPointerCapture(event.pointerId);
      }
      point(nearest(shareAt(event)));
    });
    plot.addEventListener("pointerup", (event) => {
      const end = shareAt(event);
      if (start !== null && Math.abs(end - start) > (to - from) / 50) show(Math.min(start, end), Math.max(start, end));
      start = null;
      brush.hidden = true;
    });
    plot.addEventListener("dblclick", () => show(0, 1));
    plot.addEventListener("keydown", (event) => {
      const walk = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
      if (walk) point((at ?? 0) + walk);
      else if (event.key === "Home") point(0);
      else if (event.key === "End") point(history.event.length - 1);
      else if (event.key === "+" || event.key === "=") zoom(0.5);
      else if (event.key === "-") zoom(2);
      else if (event.key === "0" || event.key === "Escape") show(0, 1);
      else return;
      event.preventDefault();
    });
    for (const button of all("button[data-do]", figure)) {
      button.addEventListener("click", () => {
        if (button.dataset.do === "all") show(0, 1); else zoom(button.dataset.do === "in" ? 0.5 : 2);
      });
    }
  };
  all("figure.timeline").forEach(timeline);
  const which = document.getElementById("which");
  const choose = () => {
    all("figure.timeline").slice(1).forEach((figure) => { figure.hidden = figure.dataset.key !== which.value; });
  };
  which?.addEventListener("change", choose);
  if (which) choose();  // a browser that goes back keeps the choice

  document.getElementById("save").addEventListener("click", () => {
    const text = document.getElementById("records").textContent;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "records.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  if (filter.value) narrow();
})();
