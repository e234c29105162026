"use strict";

// What the page does not need but is handier with: failures are filtered, wide tables are sorted, Escape closes a word's meaning.

for (const part of document.querySelectorAll("[data-failures]")) {
  filterFailures(part);
}
for (const table of document.querySelectorAll("table[data-sort]")) {
  sortByHeads(table);
}
closeMeanings();

// Shows the bar with the search box, and of the failing items those that have all its words and came to fail as chosen.
function filterFailures(part) {
  const bar = part.querySelector("[data-filter]");
  if (!bar) {
    return;
  }
  const search = bar.querySelector("input");
  const choice = bar.querySelector("select");
  const count = bar.querySelector("output");
  const groups = Array.from(part.querySelectorAll("details.failures"), (group) => ({
    group,
    wasOpen: false,
    items: Array.from(group.querySelectorAll(".case"), (item) => ({ item, text: null })),
  }));
  let isActive = false;

  function matches(entry, words, course) {
    entry.text ??= entry.item.textContent.toLowerCase();
    const isOfCourse = course === "" || entry.item.dataset.course.split(" ").includes(course);
    return isOfCourse && words.every((word) => entry.text.includes(word));
  }

  function apply() {
    const words = search.value.toLowerCase().split(/\s+/).filter((word) => word !== "");
    const course = choice ? choice.value : "";
    const wasActive = isActive;
    isActive = words.length > 0 || course !== "";
    let shown = 0;
    let total = 0;
    for (const { group, items } of groups) {
      let found = 0;
      for (const entry of items) {
        const isShown = !isActive || matches(entry, words, course);
        entry.item.hidden = !isShown;
        found += isShown ? 1 : 0;
      }
      shown += found;
      total += items.length;
      group.hidden = isActive && found === 0;
    }
    if (isActive !== wasActive) {
      for (const entry of groups) {
        if (isActive) {
          entry.wasOpen = entry.group.open;
        }
        entry.group.open = isActive || entry.wasOpen;
      }
    }
    count.textContent = isActive ? `${shown} of ${total} shown` : "";
  }

  search.addEventListener("input", apply);
  if (choice) {
    choice.addEventListener("change", apply);
  }
  bar.hidden = false;
}

// Makes the heads of a table buttons that sort its rows, first upwards, then downwards.
function sortByHeads(table) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortRows(table, heads, column));
  });
}

function sortRows(table, heads, column) {
  const isFalling = heads[column].getAttribute("aria-sort") === "ascending";
  for (const head of heads) {
    head.removeAttribute("aria-sort");
  }
  heads[column].setAttribute("aria-sort", isFalling ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, key: sortKey(row.cells[column].textContent) }));
  rows.sort((a, b) => {
    // What is missing stands last either way.
    if (a.key === null || b.key === null) {
      return (a.key === null ? 1 : 0) - (b.key === null ? 1 : 0);
    }
    const order =
      typeof a.key === "number" && typeof b.key === "number"
        ? a.key - b.key
        : String(a.key).localeCompare(String(b.key), "en", { numeric: true });
    return isFalling ? -order : order;
  });
  body.append(...rows.map(({ row }) => row));
}

// A number where the cell begins with one, else its text; null where there is nothing. "Less than 0.001" comes before 0.001.
function sortKey(cell) {
  const text = cell.trim();
  if (text === "" || text === "–" || text === "—") {
    return null;
  }
  const plain = text.replaceAll(",", "").replace("−", "-");
  const number = /^[\u003c>]?([+-]?\d+(\.\d+)?)/.exec(plain);
  if (!number) {
    return text;
  }
  const nudge = plain.startsWith("\u003c") ? -1e-9 : plain.startsWith(">") ? 1e-9 : 0;
  return Number(number[1]) + nudge;
}

// A meaning stays until the pointer or the focus leaves its word; Escape closes it where it is.
function closeMeanings() {
  const root = document.documentElement;
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      root.classList.add("quiet");
    }
  });
  for (const type of ["pointerover", "focusin"]) {
    document.addEventListener(type, () => root.classList.remove("quiet"));
  }
}
