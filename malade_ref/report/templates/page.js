"use strict";
(function () {
  // Tables: a click on a column's name sorts the rows below it; pinned rows stay at the end.
  function sorted(rows, column, up) {
    const pairs = rows.map((row, place) => {
      const cell = row.children[column];
      const key = cell.dataset.key;
      return { row, place, number: key === undefined ? NaN : Number(key), text: cell.textContent.trim() };
    });
    pairs.sort((one, other) => {
      const missing = [one, other].map((pair) => Number.isNaN(pair.number) && /^[–]?$/.test(pair.text));
      if (missing[0] !== missing[1]) return missing[0] ? 1 : -1;
      const numbers = !Number.isNaN(one.number) && !Number.isNaN(other.number);
      const order = numbers ? one.number - other.number : one.text.localeCompare(other.text);
      return (up ? order : -order) || one.place - other.place;
    });
    return pairs.map((pair) => pair.row);
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) button.appendChild(head.firstChild);
      head.appendChild(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        for (const body of table.tBodies) {
          const rows = Array.from(body.rows).filter((row) => !row.matches(".pinned, .title"));
          const pinned = Array.from(body.rows).filter((row) => row.matches(".pinned"));
          sorted(rows, column, up).concat(pinned).forEach((row) => body.appendChild(row));
        }
      });
    });
  }

  // The gallery: its data lie in the page.
  const island = document.getElementById("gallery-data");
  const place = document.getElementById("gallery");
  if (!island || !place) return;
  const data = JSON.parse(island.textContent);
  const selects = ["image", "attack", "defence"].map((name) => document.getElementById("choose-" + name));
  const shots = document.getElementById("shots");
  const said = document.getElementById("said");

  function fill(select, pairs, chosen) {
    select.replaceChildren();
    for (const [value, text] of pairs) {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = text;
      option.selected = value === chosen;
      select.appendChild(option);
    }
  }
  function classes(found) {
    const box = document.createElement("span");
    found.forEach(([name, percent, right], number) => {
      const line = document.createElement("span");
      line.className = number ? "other" : right ? "right" : "wrong";
      const share = percent > 99.9 ? ">99.9" : percent.toFixed(1);
      line.textContent = (number ? "" : right ? "✓ " : "✗ ") + name + " " + share + "%";
      box.appendChild(line);
    });
    return box;
  }
  function shot(what, image, alt, below) {
    const item = document.createElement("li");
    const picture = document.createElement("img");
    picture.src = "data:image/png;base64," + image;
    picture.alt = alt;
    const title = document.createElement("span");
    title.className = "what";
    title.textContent = what;
    item.append(picture, title, below);
    return item;
  }
  function words(text) {
    const span = document.createElement("span");
    span.textContent = text;
    return span;
  }
  function tell(found) {
    if (!found.length) return "gives no answer";
    return "says " + found[0][0] + " (" + found[0][1].toFixed(1) + "%), which is " + (found[0][2] ? "right" : "wrong");
  }
  function attacksOn(defence) {
    return data.attacks.filter(([key]) => data.views[key + "|" + defence]);
  }
  function show() {
    const [image, attack, defence] = selects.map((select) => select.value);
    const view = data.views[attack + "|" + defence][image];
    const clean = (data.views["clean/0|" + defence] || {})[image];
    const name = data.images[Number(image)];
    const chain = view.chain || [];
    shots.replaceChildren(
      shot("clean image", data.clean[Number(image)], "Clean image " + name, classes(clean ? clean.classes : [])),
      shot("perturbation", view.change, "What the attack added, red brighter and blue darker", words(view.sizes)),
      shot("as attacked", view.image, "Image as attacked", classes(view.classes)),
    );
    chain.forEach((position) => {
      const what = position.step ? "chain, step " + position.step : "chain, start";
      shots.appendChild(shot(what, position.image, "Position of the chain at step " + position.step, classes(position.classes)));
    });
    said.textContent = "Image " + name + ". As attacked: the defence " + tell(view.classes) + ".";
  }
  fill(selects[0], data.images.map((name, number) => [String(number), name]), "0");
  fill(selects[2], data.defences, data.start[1]);
  fill(selects[1], attacksOn(data.start[1]), data.start[0]);
  selects[2].addEventListener("change", () => {
    fill(selects[1], attacksOn(selects[2].value), selects[1].value);
    show();
  });
  selects[0].addEventListener("change", show);
  selects[1].addEventListener("change", show);
  place.hidden = false;
  show();
})();
