// Charts, the selected row, filters, copying, light and dark. Text from the study is only set as text: nothing
// here writes HTML.
const specs = JSON.parse(document.getElementById("specs").textContent);
const views = {};
const tip = document.getElementById("tip");

function showTip(_, event, __, value) {
  if (!value) { tip.hidden = true; return; }
  tip.replaceChildren(...Object.entries(value).map(([name, text]) => {
    const line = document.createElement("div"), strong = document.createElement("b");
    strong.textContent = name ? `${name}: ` : "";
    line.append(strong, String(text));
    return line;
  }));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${event.clientY + box.height + 24 > innerHeight ? event.clientY - box.height - 12 : event.clientY + 14}px`;
}

async function draw(place) {
  const key = place.dataset.chart;
  const options = { actions: false, renderer: "svg", defaultStyle: false, ast: true, tooltip: showTip };
  const { view } = await frostlineEmbed(place, specs[key], options);
  views[key] = view;
  place.querySelector("svg").setAttribute("aria-hidden", "true"); // the figure has a name, and a table
  if (key === "tried-scatter") {
    view.addEventListener("click", (_, item) => { if (item && item.datum && item.datum.key) look(item.datum.key); });
  }
}

function hasCurves(key) { return document.getElementById("looks").dataset.curves.split(" ").includes(key); }

async function look(key) {
  const looks = document.getElementById("looks");
  for (const one of looks.querySelectorAll(".look")) one.hidden = one.id !== `look-${key}`;
  for (const one of document.querySelectorAll("[data-pick]")) one.setAttribute("aria-pressed", one.dataset.pick === key);
  looks.dataset.shown = key;
  const curves = document.getElementById("curves");
  if (!curves) return;
  const has = hasCurves(key);
  curves.hidden = !has;
  if (!has) return;
  for (const figure of curves.querySelectorAll("figure")) {
    rows(figure, key);
    await views[figure.id].signal("shown", key).runAsync();
  }
}

// The table below a curve shows the selected row.
function rows(figure, key) {
  const body = figure.querySelector("tbody");
  if (!body) return;
  const spec = specs[figure.id], series = new Set(figure.id === "curve-loss" ? ["training", "held out"] : ["accuracy"]);
  const points = spec.data.values.filter((value) => value.row === key && series.has(value.what));
  body.replaceChildren(...points.map((value) => {
    const line = document.createElement("tr");
    const number = figure.id === "curve-loss" ? value.value.toFixed(3) : `${(100 * value.value).toFixed(1)} %`;
    for (const [index, text] of [value.epoch, value.what, number].entries()) {
      const cell = document.createElement(index ? "td" : "th");
      if (!index) cell.scope = "row";
      cell.textContent = text;
      line.append(cell);
    }
    return line;
  }));
}

function filters() {
  const bar = document.getElementById("filters");
  if (!bar) return;
  const truth = document.getElementById("by-true"), answer = document.getElementById("by-answered");
  const cards = [...document.querySelectorAll("#mistakes .look-at")];
  const apply = () => {
    for (const card of cards) {
      card.hidden = (truth.value && card.dataset.true !== truth.value) || (answer.value && card.dataset.answered !== answer.value);
    }
    document.getElementById("left").textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length} shown`;
  };
  bar.hidden = false;
  truth.addEventListener("change", apply);
  answer.addEventListener("change", apply);
}

function theme() {
  const button = document.getElementById("theme"), root = document.documentElement;
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  button.hidden = false;
  name();
}

for (const button of document.querySelectorAll(".copy")) {
  const code = button.parentElement.querySelector("code");
  button.hidden = false;
  button.addEventListener("click", async () => {
    const before = [...button.childNodes];
    try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(code); button.textContent = "Selected: copy it"; }
    setTimeout(() => button.replaceChildren(...before), 1500);
  });
}
theme();
filters();
for (const button of document.querySelectorAll("[data-pick]")) {
  button.addEventListener("click", () => look(button.dataset.pick));
}
const drawn = [];
for (const place of document.querySelectorAll("[data-chart]")) {
  try { await draw(place); drawn.push(place.dataset.chart); }
  catch (error) { place.textContent = "This chart could not be drawn; its numbers are below."; console.error(error); }
}
const curves = document.getElementById("curves");
if (curves) curves.hidden = !hasCurves(document.getElementById("looks").dataset.shown);
document.documentElement.dataset.drawn = drawn.length;
